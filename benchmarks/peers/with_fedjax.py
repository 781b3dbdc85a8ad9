"""FedJAX: its own `fed_avg` on an MLP in Haiku, one client after another under jit."""

import fedjax
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import work


def network(batch: dict[str, jax.Array]) -> jax.Array:
    x = batch["x"]
    return hk.nets.MLP(work.WIDTHS[1:])(x)


def cross_entropy(batch: dict[str, jax.Array], logits: jax.Array) -> jax.Array:
    logp = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(logp, batch["y"][:, None], axis=1)[:, 0]


def main() -> None:
    turns = work.Turns()
    sample = {"x": np.zeros((1, 784), np.float32), "y": np.zeros(1, np.int32)}
    model = fedjax.create_model_from_haiku(
        hk.transform(network), sample_batch=sample, train_loss=cross_entropy
    )
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        client_optimizer=fedjax.optimizers.sgd(work.RATE),
        server_optimizer=fedjax.optimizers.sgd(1.0),
        client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(
            batch_size=work.BATCH, num_epochs=work.EPOCHS
        ),
    )
    datasets = [
        fedjax.ClientDataset({"x": work.scaled(x), "y": y})
        for x, y in zip(*work.clients(), strict=True)
    ]
    state = algorithm.init(model.init(jax.random.PRNGKey(0)))
    key = jax.random.PRNGKey(1)
    for _ in range(turns.rounds):
        turns.wait()
        key, use = jax.random.split(key)
        keys = jax.random.split(use, work.CLIENTS)
        cohort = [(str(i), datasets[i], keys[i]) for i in range(work.CLIENTS)]
        state, diagnostics = algorithm.apply(state, cohort)
        jax.block_until_ready((state.params, diagnostics))
    layers = [state.params[name] for name in sorted(state.params)]
    turns.finish([(np.asarray(layer["w"]), np.asarray(layer["b"])) for layer in layers])


if __name__ == "__main__":
    main()

"""Seeds x sparsities as one jitted program.

Numeric arguments of the builders may be traced, and a round is a pure function, so a
grid of whole runs is a `jax.vmap` over a function of one run. `fedsparsify sweep` does
this for the command line, with files, devices and options that are no numbers.
"""

import jax
import jax.numpy as jnp

from fedsparsify_jax import algorithms, data, metrics, models
from fedsparsify_jax.training.losses import cross_entropy

ROUNDS = 20
SEEDS, SPARSITIES = jnp.arange(3), jnp.array([0.5, 0.9, 0.97])

digits = data.load("digits")
clients = data.stack(digits.train, data.iid(digits.train.y, num_clients=10, seed=0))
clients = jax.device_put(clients)
model = models.build(
    "mlp", input_shape=(8, 8), num_classes=10, preprocess=digits.normalization
)


def train(seed: jax.Array, final_sparsity: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns sparsity and test accuracy of one run."""
    algorithm = algorithms.fedsparsify_global(
        model.apply, final_sparsity=final_sparsity, rounds=ROUNDS, learning_rate=0.1
    )
    init_key, model_key, key = jax.random.split(jax.random.key(seed), 3)

    def one_round(state, t):
        return algorithm.step(jax.random.fold_in(key, t), state, clients)

    state = algorithm.init(init_key, model.init(model_key))
    state, info = jax.lax.scan(one_round, state, jnp.arange(ROUNDS))
    test = metrics.evaluate(
        model.apply, cross_entropy, algorithm.model(state), digits.test
    )
    return info.sparsity[-1], test.metric


over_sparsities = jax.vmap(train, in_axes=(None, 0))
grid = jax.jit(jax.vmap(over_sparsities, in_axes=(0, None)))
reached, accuracy = grid(SEEDS, SPARSITIES)  # [seeds, sparsities]

for number, target in enumerate(SPARSITIES):
    mean, spread = accuracy[:, number].mean(), accuracy[:, number].std(ddof=1)
    print(
        f"target {target:.0%}  reached {reached[:, number].mean():.2%}  "
        f"accuracy {100 * mean:.1f} +- {100 * spread:.1f} %"
    )

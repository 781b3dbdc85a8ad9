"""Ours: the complete FedSparsify-Global step, sharded over one device a core."""

from typing import Any

import jax
import numpy as np
import work
from jax.sharding import NamedSharding, PartitionSpec

from fedsparsify_jax import algorithms, data, models
from fedsparsify_jax.client_map import AXIS, device_mesh, sharded
from fedsparsify_jax.types import ClientData, State


def layers(state: State) -> list[tuple[np.ndarray, np.ndarray]]:
    params = state.variables["params"]
    return [
        (np.asarray(params[name]["kernel"]), np.asarray(params[name]["bias"]))
        for name in sorted(params)
    ]


def main() -> None:
    turns = work.Turns()
    jax.config.update("jax_num_cpu_devices", 2)
    mesh = device_mesh()
    model = models.build(
        "mlp",
        input_shape=(28, 28),
        num_classes=10,
        preprocess=data.Normalization(0.0, 256.0),
    )
    algorithm = algorithms.fedsparsify_global(
        model.apply,
        final_sparsity=0.95,
        rounds=200,
        learning_rate=work.RATE,
        local_epochs=work.EPOCHS,
        batch_size=work.BATCH,
        client_map=sharded(mesh),
    )
    everybody = ClientData(
        *work.clients(), np.full(work.CLIENTS, work.EXAMPLES, np.int32)
    )
    clients = jax.device_put(everybody, NamedSharding(mesh, PartitionSpec(AXIS)))
    state: Any = algorithm.init(jax.random.key(1), model.init(jax.random.key(2)))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    step = jax.jit(algorithm.step, donate_argnums=1)
    for t in range(turns.rounds):
        turns.wait()
        state, info = step(jax.random.fold_in(jax.random.key(3), t), state, clients)
        jax.block_until_ready((state, info))
    turns.finish(layers(state))


if __name__ == "__main__":
    main()

"""One paper-scale FashionMNIST round: a plain JAX FedAvg against this library.

Claim: `fedavg` takes at most 1.05 x a plain hand-written vmapped JAX FedAvg;
FedSparsify-Global and -Local take at most 1.08 x `fedavg`.

Work of a round: 10 clients x 6,000 images of 28x28, the 118,282-parameter MLP, 4 local
epochs, batch 32, SGD 0.02. The contestants take turns, round by round, in one process
on one JAX device; medians and ratios of medians are printed and written as JSON.

    python benchmarks/round.py                 # synthetic images, 10 rounds each
    python benchmarks/round.py --out FILE.json --rounds 20

Run nothing else meanwhile. About two minutes on 2 cores.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import write_result
from plain import plain_fedavg

from fedsparsify_jax import algorithms, data, models
from fedsparsify_jax.types import ClientData

CLIENTS, EXAMPLES, EPOCHS, BATCH, RATE = 10, 6000, 4, 32, 0.02


def synthetic_clients(examples: int = EXAMPLES) -> ClientData:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (CLIENTS, examples, 28, 28), dtype=np.uint8)
    y = rng.integers(0, 10, (CLIENTS, examples), dtype=np.int32)
    return ClientData(
        jnp.asarray(x), jnp.asarray(y), jnp.full(CLIENTS, examples, jnp.int32)
    )


def contestants() -> dict[str, Callable[[jax.Array, ClientData], None]]:
    """Name to a function that plays one more round and waits for its end."""
    normalization = data.Normalization(0.0, 256.0)
    model = models.build(
        "mlp", input_shape=(28, 28), num_classes=10, preprocess=normalization
    )
    options: dict[str, Any] = {
        "learning_rate": RATE,
        "local_epochs": EPOCHS,
        "batch_size": BATCH,
    }
    sparse = options | {"final_sparsity": 0.95, "rounds": 200}
    ours = {
        "fedavg": algorithms.fedavg(model.apply, **options),
        "fedsparsify_global": algorithms.fedsparsify_global(model.apply, **sparse),
        "fedsparsify_local": algorithms.fedsparsify_local(model.apply, **sparse),
    }
    plain, params = plain_fedavg(clients=CLIENTS, epochs=EPOCHS, batch=BATCH, rate=RATE)
    players: dict[str, Callable[[jax.Array, ClientData], None]] = {}
    held: dict[str, Any] = {"plain": params}

    def play_plain(key: jax.Array, clients: ClientData) -> None:
        held["plain"] = jax.block_until_ready(plain(key, held["plain"], clients))

    players["plain"] = play_plain
    for name, algorithm in ours.items():
        held[name] = algorithm.init(jax.random.key(1), model.init(jax.random.key(2)))
        step = jax.jit(algorithm.step, donate_argnums=1)

        def play(
            key: jax.Array, clients: ClientData, name: str = name, step: Any = step
        ) -> None:
            held[name], info = step(key, held[name], clients)
            jax.block_until_ready((held[name], info))

        players[name] = play
    return players


def measure(rounds: int) -> dict[str, list[float]]:
    clients, players = synthetic_clients(), contestants()
    seconds: dict[str, list[float]] = {name: [] for name in players}
    for t in range(rounds + 1):
        for name, play in players.items():
            start = time.perf_counter()
            play(jax.random.fold_in(jax.random.key(3), t), clients)
            if t:  # the first round compiles
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds each")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    seconds = measure(arguments.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    limits = {
        "fedavg": ("plain", 1.05),
        "fedsparsify_global": ("fedavg", 1.08),
        "fedsparsify_local": ("fedavg", 1.08),
    }
    print(f"{'contestant':20} {'median s':>9} {'min':>7} {'max':>7}  ratio")
    for name, values in seconds.items():
        against, limit = limits.get(name, ("", math.nan))
        ratio = f"{medians[name] / medians[against]:.3f} x {against}" if against else ""
        goal = f" (goal <= {limit})" if against else ""
        low, high = min(values), max(values)
        print(f"{name:20} {medians[name]:9.3f} {low:7.3f} {high:7.3f}  {ratio}{goal}")
    if arguments.out:
        write_result(arguments.out, {"seconds": seconds, "medians": medians})


if __name__ == "__main__":
    main()

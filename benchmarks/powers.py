"""A round under Powerpropagation: powers by logarithms against XLA's own power.

Claim: a round of FedSparsify-Global under ``--powerprop 1.25`` takes at most 0.6 x of
the same round with ``jnp.abs(theta) ** alpha``, and at most 2 x of a round without.

Work of a round: 10 clients x 600 images of 28x28, the 118,282-parameter MLP, 4 local
epochs, batch 32, as in FashionMNIST's federation of 100. The contestants take turns,
round by round, in one process; medians and ratios are printed and written as JSON.

    python benchmarks/powers.py --out benchmarks/results-powers.json

Run nothing else meanwhile. A minute on 2 cores.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
from common import write_result
from round import synthetic_clients

from fedsparsify_jax import algorithms, data, models
from fedsparsify_jax.training import powerprop
from fedsparsify_jax.types import ClientData

EXAMPLES, ALPHA = 600, 1.25
GOALS = {"power": 0.6, "none": 2.0}


def own_power(theta: jax.Array, exponent: jax.Array) -> jax.Array:
    """Returns ``|theta|^exponent`` as XLA computes it."""
    return jnp.where(theta == 0, 0, jnp.abs(theta) ** exponent)


def contestant(
    federation: ClientData, power: Callable[..., jax.Array], alpha: float | None
) -> Callable[[jax.Array], None]:
    """Returns a function that plays one more round and waits for its end."""
    model = models.build(
        "mlp",
        input_shape=(28, 28),
        num_classes=10,
        preprocess=data.Normalization(0.0, 256.0),
    )
    algorithm = algorithms.fedsparsify_global(
        model.apply,
        final_sparsity=0.95,
        learning_rate=0.02,
        local_epochs=4,
        batch_size=32,
        powerprop=alpha,
    )
    state = algorithm.init(jax.random.key(1), model.init(jax.random.key(2)))
    with mock.patch.object(powerprop, "_power", power):  # which the trace looks up
        key = jax.random.key(0)
        step = jax.jit(algorithm.step).lower(key, state, federation).compile()
    held = [state]

    def play(key: jax.Array) -> None:
        held[0], info = step(key, held[0], federation)
        jax.block_until_ready(info)

    return play


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds each")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    federation, logarithms = synthetic_clients(EXAMPLES), powerprop._power
    players = {
        "logarithms": contestant(federation, logarithms, ALPHA),
        "power": contestant(federation, own_power, ALPHA),
        "none": contestant(federation, logarithms, None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in players}
    for t in range(arguments.rounds + 1):
        for name, play in players.items():
            start = time.perf_counter()
            play(jax.random.fold_in(jax.random.key(3), t))
            if t:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: medians["logarithms"] / medians[name] for name in GOALS}
    for name, median in medians.items():
        print(f"{name:12} {median:7.3f} s a round")
    for name, goal in GOALS.items():
        print(f"logarithms take {ratios[name]:.3f} x {name} (goal <= {goal})")
    if arguments.out:
        result = {"seconds": seconds, "medians": medians, "ratios": ratios}
        write_result(arguments.out, result | {"goals": GOALS})


if __name__ == "__main__":
    main()

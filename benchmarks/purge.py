"""Purging and encoding against a whole round: what sparsity costs on top of training.

Claim: the purge and the encoding of messages together take at most 3 % of a round.

Work: rounds of FedSparsify-Global on 10 clients x 6,000 images of 28 x 28, the standard
recipe with the mlp (four epochs, batches of 32); the images are random, for time does
not depend on them. The purge is timed alone, as a jitted function of the model and its
masks (the threshold, the new masks, the model times these), and so is `wire.encode` of
the purged model against the masks before: for the mlp, and for the 1.6 M numbers of the
cnn, over the same rounds of the mlp. A round of the cnn itself takes minutes, so that
its share is smaller still.

A round has one download and ten uploads. In a deployment every client encodes its own,
so the round waits for two encodings; in a simulation one machine encodes eleven.

    python benchmarks/purge.py --out benchmarks/results-purge.json    # half a minute

Run nothing else meanwhile.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import write_result
from faults import clients

from fedsparsify_jax import algorithms, client_map, models, pruning
from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax.data import Normalization
from fedsparsify_jax.deploy import wire
from fedsparsify_jax.types import Masks, Variables

GOAL, CLIENTS, TURNS = 0.03, 10, 15
SHAPES = {"mlp": (28, 28), "cnn": (32, 32, 3)}
SPARSITIES = (0.8, 0.95, 0.99)
STEP = 0.01  # of the sparsity, from the masks before to the new ones


@jax.jit
def purge(variables: Variables, masks: Masks, sparsity: Any) -> tuple[Variables, Masks]:
    """Prunes a merged model within its masks, as the server does."""
    new = pruning.prune(pruning.magnitude(variables), sparsity, within=masks)
    return mask_algebra.apply(new, variables), new


def seconds_of(work: Callable[[], Any], turns: int) -> float:
    """Median seconds of a function, after a call that compiles it."""
    jax.block_until_ready(work())
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def purging(variables: Variables, sparsity: float) -> dict[str, float]:
    """Seconds of one purge and of the encoding of what it leaves."""
    masks = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), variables)
    variables, before = purge(variables, masks, sparsity - STEP)
    result = jax.tree.map(np.asarray, purge(variables, before, sparsity))
    known = jax.tree.map(np.asarray, before)
    return {
        "purge": seconds_of(lambda: purge(variables, before, sparsity), TURNS),
        "encode": seconds_of(lambda: wire.encode(*result, previous=known), TURNS),
    }


def rounds_of(model: models.Model, count: int) -> list[float]:
    """Seconds of rounds, compiled before."""
    algorithm = algorithms.fedsparsify_global(
        model.apply, final_sparsity=0.95, rounds=200, client_map=client_map.chunked(1)
    )
    data, key = clients(), jax.random.key(3)
    state = algorithm.init(jax.random.key(1), model.init(jax.random.key(2)))
    step = jax.jit(algorithm.step).lower(key, state, data).compile()
    times = []
    for t in range(count):
        start = time.perf_counter()
        state, info = step(jax.random.fold_in(key, t), state, data)
        jax.block_until_ready((state, info))
        times.append(time.perf_counter() - start)
        print(f"round {times[-1]:.2f} s", flush=True)
    return times


def row(variables: Variables, sparsity: float, rounds: list[float]) -> dict[str, float]:
    """Seconds of the parts, and their shares of the median round, printed."""
    part, whole = purging(variables, sparsity), statistics.median(rounds)
    deployed = (part["purge"] + 2 * part["encode"]) / whole
    simulated = (part["purge"] + (CLIENTS + 1) * part["encode"]) / whole
    print(
        f"  {sparsity}: purge {1e3 * part['purge']:.1f} ms, encode "
        f"{1e3 * part['encode']:.1f} ms; {deployed:.2%} of a round of {whole:.2f} s "
        f"with two encodings, {simulated:.2%} with eleven (goal <= {GOAL:.0%})",
        flush=True,
    )
    return part | {"deployed": deployed, "simulated": simulated}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    built = {
        name: models.build(
            name,
            input_shape=shape,
            num_classes=10,
            preprocess=Normalization(0, 256),
        )
        for name, shape in SHAPES.items()
    }
    times = rounds_of(built["mlp"], options.rounds)
    result: dict[str, Any] = {"rounds": times, "models": {}}
    for name, model in built.items():
        variables = model.init(jax.random.key(0))
        numbers = sum(leaf.size for leaf in jax.tree.leaves(variables))
        print(f"{name}, {numbers:,} numbers")
        rows = {str(s): row(variables, s, times) for s in SPARSITIES}
        result["models"][name] = {"numbers": numbers, **rows}
    if options.out:
        write_result(options.out, result)


if __name__ == "__main__":
    main()

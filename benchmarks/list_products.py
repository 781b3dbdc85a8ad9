"""The products of index lists, written as loops, against gathers and dense products.

Claim: on CPUs the loops of `training.compact.products` take less time than XLA's
gathers, forward and with the gradient, and up to 8 % of the weights less than the dense
product. The costs in `training.compact.plan` are of whole steps beside such figures.

Work: a layer of 784 x 128 and batches of 32, forward and with the gradient of its
weights, on one core; 1, 2, 4, 8 and 12 % of the weights are left, at random. Every
repeat is a program of 1,000 passes, in turns.

    python benchmarks/list_products.py
    python benchmarks/list_products.py --out FILE.json --repeats 9

Run nothing else meanwhile. A minute.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import write_result

from fedsparsify_jax.training.compact import ellpack, plan, products

INPUTS, OUTPUTS, BATCH, PASSES = 784, 128, 32, 1000
Array = jax.Array


def gathered(lists: ellpack.Lists, values: Array, x: Array) -> Array:
    return products.gathered(lists.inputs, lists.owner, values, x, OUTPUTS)


def looped(lists: ellpack.Lists, values: Array, x: Array) -> Array:
    return ellpack.matmul(lists, values, x, OUTPUTS)


def dense(weights: Array, x: Array) -> Array:
    return weights @ x


def program(product: Callable[[Array, Array], Array], *, backward: bool) -> Any:
    """A program of many passes, each of which depends on the one before.

    The inputs change too, or XLA would gather them once and for all.
    """

    def once(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        weights, x = state
        if not backward:
            return weights, x + jnp.max(product(weights, x)) * 0
        change = jax.grad(lambda w: jnp.sum(jnp.square(product(w, x))))(weights)
        return weights - 1e-9 * change, x + jnp.max(change) * 0

    @jax.jit
    def run(weights: Array, x: Array) -> tuple[Array, Array]:
        return jax.lax.fori_loop(0, PASSES, once, (weights, x))

    return run


def measure(share: float, repeats: int) -> dict[str, Any]:
    """Microseconds of a pass of every product, with this share of the weights."""
    rng = np.random.default_rng(0)
    mask = jnp.asarray(rng.random((INPUTS, OUTPUTS)) < share)
    kernel = jnp.asarray(rng.normal(0, 0.05, mask.shape), jnp.float32) * mask
    x = jnp.asarray(rng.random((INPUTS, BATCH)), jnp.float32)
    rows = int(ellpack.rows_needed(mask, plan.SLOTS))
    lists = ellpack.index_lists(mask, rows, plan.SLOTS)
    values = ellpack.pack(lists, kernel)
    sides: dict[str, tuple[Any, Array]] = {
        "dense": (dense, kernel.T),
        "gathered": (partial(gathered, lists), values),
        "looped": (partial(looped, lists), values),
    }
    runs = {
        f"{name}, {kind}": (program(product, backward=kind == "backward"), weights)
        for name, (product, weights) in sides.items()
        for kind in ("forward", "backward")
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, (run, weights) in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(weights, x))
            if turn:  # the first one compiles
                seconds[name].append(time.perf_counter() - start)
    medians = {
        name: statistics.median(values) / PASSES * 1e6
        for name, values in seconds.items()
    }
    return {"slots": rows * plan.SLOTS, "microseconds": medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    os.sched_setaffinity(0, {0})
    results: dict[str, Any] = {}
    for share in (0.01, 0.02, 0.04, 0.08, 0.12):
        results[str(share)] = measure(share, options.repeats)
        times = results[str(share)]["microseconds"]
        slots = results[str(share)]["slots"]
        print(
            f"{share:.0%}, {slots} slots: "
            + ", ".join(f"{name} {value:.1f} us" for name, value in times.items()),
            flush=True,
        )
    if options.out:
        write_result(options.out, results)


if __name__ == "__main__":
    main()

"""The trimmed mean over clients by counted ranks against ``jnp.sort``.

Claim: `order_statistics.mean_of_ranks`, of which the merges ``median`` and
``trimmed-mean`` consist, is at least twice as fast on a CPU as a sort along the axis of
the clients, for cohorts of 10, 20 and 100.

Work: random normal entries, as many as the 784-128-128-10 MLP has parameters, of which
30 % are cut off at each end; one JAX device. Contestants take turns in one process.

    python benchmarks/order_statistics.py                 # half a minute
    python benchmarks/order_statistics.py --out FILE.json
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import write_result

from fedsparsify_jax.aggregation.ranks import mean_of_ranks

GOAL, ENTRIES, COHORTS, CUT = 2.0, 118_282, (10, 20, 100), 0.3


def by_sort(
    leaf: jax.Array, present: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
    ordered = jnp.sort(jnp.where(present[:, None], leaf, jnp.inf), axis=0)
    place = jnp.arange(len(leaf))[:, None]
    inside = (place >= low) & (place < high)
    return jnp.sum(jnp.where(inside, ordered / (high - low), 0.0), axis=0)


CONTESTANTS: dict[str, Callable[..., jax.Array]] = {
    "ranks": mean_of_ranks,
    "sort": by_sort,
}


def compare(clients: int, turns: int) -> dict[str, Any]:
    """Seconds of both, after a check that they find the same."""
    rng = np.random.default_rng(0)
    leaf = jnp.asarray(rng.standard_normal((clients, ENTRIES), dtype=np.float32))
    cut = int(CUT * clients)
    bounds = (jnp.ones(clients, bool), jnp.int32(cut), jnp.int32(clients - cut))
    programs = {
        name: jax.jit(fn).lower(leaf, *bounds).compile()
        for name, fn in CONTESTANTS.items()
    }
    found = [program(leaf, *bounds) for program in programs.values()]
    np.testing.assert_allclose(*found, atol=1e-5)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(turns):
        for name, program in programs.items():
            start = time.perf_counter()
            program(leaf, *bounds).block_until_ready()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["sort"] / medians["ranks"]
    print(
        f"{clients:4} clients: sort {medians['sort']:.4f} s, ranks "
        f"{medians['ranks']:.4f} s, {ratio:.1f} x (goal >= {GOAL:.0f})",
        flush=True,
    )
    return {"seconds": seconds, "medians": medians, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    result = {str(k): compare(k, arguments.turns) for k in COHORTS}
    if arguments.out:
        write_result(arguments.out, result)


if __name__ == "__main__":
    main()

"""An uneven sweep: clients divided over the cores, or whole cells.

Claim: where cells do not divide evenly over the cores (three seeds on two cores), a
sweep whose devices share the clients of every cell takes less time than one whose
devices have whole cells, which do 4/3 of the work. `placement.sharded_by_trial` chooses
between them by what this measures.

Work: as in `sweep.py`, with FedAvg and three seeds; both take turns.

    python benchmarks/sweep_shares.py --out benchmarks/results-sweep_shares.json

Run nothing else meanwhile. About a minute on 2 cores.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from common import write_result
from sweep import ROUNDS, one_sweep, options, synthetic

from fedsparsify_jax.runner.options.sweep_grid import program_groups, trials
from fedsparsify_jax.runner.process import compilation_cache
from fedsparsify_jax.runner.programs import sweep_program
from fedsparsify_jax.runner.programs.devices import select

SEEDS, GOAL = (0, 1, 2), 1.0
CONTESTANTS = {"clients shared": False, "whole cells": True}


def compare(data: Path, turns: int) -> dict[str, Any]:
    """Seconds of ten rounds of all seeds, both ways."""
    devices = select(None)
    grid = options(data) | {
        "algorithm": ["fedavg"],
        "final_sparsity": [0.9],
        "seed": list(SEEDS),
    }
    (group,) = program_groups(trials(grid))
    ready = {}
    for name, by_trial in CONTESTANTS.items():
        with mock.patch.object(
            sweep_program, "sharded_by_trial", lambda *_, a=by_trial: a
        ):
            _, ready[name] = one_sweep(group, devices)
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    found: dict[str, np.ndarray] = {}
    for _ in range(turns):
        for name, play in ready.items():
            start = time.perf_counter()
            reported = play()
            seconds[name].append(time.perf_counter() - start)
            found.setdefault(name, reported)
    # Sums in another order, nothing else.
    np.testing.assert_allclose(*found.values(), atol=2e-2)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["clients shared"] / medians["whole cells"]
    for name, value in medians.items():
        print(f"{name:15} {value / ROUNDS:.3f} s a round of {len(SEEDS)} seeds")
    print(f"{ratio:.3f} x (goal <= {GOAL})")
    return {
        "devices": len(devices),
        "seconds": seconds,
        "medians": medians,
        "ratio": ratio,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    compilation_cache.enable(tempfile.mkdtemp())
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "synthetic.npz"
        synthetic(data)
        result = compare(data, arguments.turns)
    if arguments.out:
        write_result(arguments.out, result)


if __name__ == "__main__":
    main()

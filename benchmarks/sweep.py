"""Eight runs as one sweep against the same eight one after another.

Claim: a sweep of 4 seeds x 2 final sparsities takes at most 0.95 x the time of its 8
runs one after another, with compilation and without it, and gives their numbers.

Work: FashionMNIST's size (60,000 images of 28x28, synthetic; 10,000 to test on), 100
clients of which 10 take part in a round, the 118,282-parameter MLP, 4 local epochs,
batch 32, FedSparsify-Global, an evaluation every round. A single run is as fast as
`fedsparsify train` makes it: its clients divided over one JAX device a core. The sweep
divides its cells over the same devices.

    rounds        10 rounds of all eight; both sides take turns, three times
    with compile  the same and the compilation, with a persistent cache that was empty:
                  single runs of the same sparsity share a program
    commands      `fedsparsify train` eight times and `fedsparsify sweep` once, as a
                  user types them, each side with a cache of its own that was empty

    python benchmarks/sweep.py --out benchmarks/results-sweep.json

Run nothing else meanwhile. About three minutes on 2 cores.
"""

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, write_result

from fedsparsify_jax.runner.options.sweep_grid import Trial, program_groups, trials
from fedsparsify_jax.runner.process import compilation_cache
from fedsparsify_jax.runner.programs.devices import select
from fedsparsify_jax.runner.programs.federation import Keys, assemble
from fedsparsify_jax.runner.programs.program import Report, RoundProgram
from fedsparsify_jax.runner.programs.sources import InMemory
from fedsparsify_jax.runner.programs.sweep_program import GroupProgram

SEEDS, SPARSITIES, ROUNDS, AT_ONCE = (0, 1, 2, 3), (0.9, 0.95), 10, 2
GOAL = 0.95


def synthetic(path: Path) -> None:
    """Images that a network can learn: a pattern a class, and noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 128, (10, 28, 28))
    parts: dict[str, Any] = {}
    for name, size in (("train", 60_000), ("test", 10_000)):
        y = rng.integers(0, 10, size)
        noise = rng.integers(0, 128, (size, 28, 28))
        parts[f"x_{name}"] = (patterns[y] + noise).astype(np.uint8)
        parts[f"y_{name}"] = y
    np.savez(path, **parts)


def options(data: Path) -> dict[str, list[Any]]:
    return {
        "dataset": ["npz"],
        "data_dir": [data],
        "num_clients": [100],
        "participation": [0.1],
        "rounds": [ROUNDS],
        "learning_rate": [0.02],
        "final_sparsity": list(SPARSITIES),
        "seed": list(SEEDS),
    }


def figures(report: Report) -> tuple[float, ...]:
    """Accuracy, loss and sparsity of a round."""
    accuracy = report.evaluations["test"].metric
    return float(accuracy), float(report.info.loss), float(report.info.sparsity)


def one_sweep(
    group: list[Trial], devices: list[Any]
) -> tuple[float, Callable[[], Any]]:
    """Seconds to compile, and a function that plays the rounds."""
    federation = assemble(group[0].config, devices)
    program = GroupProgram(federation, group, devices)
    state = program.init()

    def play() -> np.ndarray:
        nonlocal state
        rows: list[list[tuple[float, ...]]] = [[] for _ in group]
        for _ in range(ROUNDS // AT_ONCE):
            state, reports = program(state, AT_ONCE)
            for row, trial in zip(rows, reports, strict=True):
                row += map(figures, trial)
        return np.array(rows)

    return program.compile_seconds, play


def single_runs(
    group: list[Trial], devices: list[Any]
) -> tuple[float, Callable[[], Any]]:
    """The same for one run after another; the data is loaded and compiled before."""
    programs, states, clients = [], [], []
    federation = assemble(group[0].config, devices)
    for cell in group:
        federation = assemble(cell.config, devices, federation.dataset)
        keys, algorithm = Keys.from_seed(cell.config.seed), federation.algorithm
        state = algorithm.init(keys.state, federation.model.init(keys.model))
        states.append(federation.placement.put_state(state))
        source = InMemory(federation)
        clients.append(source.shapes(1))  # in memory, these are the data themselves
        program = RoundProgram(federation, source, keys.rounds)
        program.compile(states[-1], 1)
        programs.append(program)

    def play() -> np.ndarray:
        rows: list[list[tuple[float, ...]]] = [[] for _ in programs]
        for number, program in enumerate(programs):
            for _ in range(ROUNDS):
                state, reports = program(states[number], 1, clients[number])
                states[number] = state
                rows[number] += map(figures, reports)
        return np.array(rows)

    return sum(program.compile_seconds for program in programs), play


def in_process(data: Path, repeats: int) -> dict[str, Any]:
    devices = select(None)
    compilation_cache.enable(tempfile.mkdtemp())
    (group,) = program_groups(trials(options(data)))
    sides = {"sweep": one_sweep, "one by one": single_runs}
    ready = {name: make(group, devices) for name, make in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    numbers: dict[str, np.ndarray] = {}
    for _ in range(repeats):  # the rounds go on; each takes as long as any other
        for name, (_, play) in ready.items():
            start = time.perf_counter()
            reported = play()  # accuracy, loss and sparsity: [cells, rounds, 3]
            seconds[name].append(time.perf_counter() - start)
            numbers.setdefault(name, reported)
    difference = np.abs(numbers["sweep"] - numbers["one by one"]).max(axis=(0, 2))
    return {
        "devices": len(devices),
        "compile_seconds": {name: compiled for name, (compiled, _) in ready.items()},
        "round_seconds": seconds,
        "largest_difference_by_round": difference.tolist(),
    }


def commands(data: Path) -> dict[str, float]:
    """Seconds of the command lines, from a fresh process to the last file."""
    given = options(data)
    shared = [
        word
        for field, column in given.items()
        if field not in ("final_sparsity", "seed")
        for word in (f"--{field.replace('_', '-')}", str(column[0]))
    ]

    def run(command: str, *words: str) -> None:
        line = [sys.executable, "-m", "fedsparsify_jax", command, *shared, *words]
        subprocess.run(line, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)

    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        start = time.perf_counter()
        run(
            "sweep",
            *("--final-sparsity", ",".join(map(str, SPARSITIES))),
            *("--seed", ",".join(map(str, SEEDS))),
            *("--out", str(place / "sweep"), "--compilation-cache", str(place / "a")),
        )
        seconds["sweep"] = time.perf_counter() - start
        start = time.perf_counter()
        for cell in trials(given):
            config = dataclasses.asdict(cell.config)
            run(
                "train",
                *("--final-sparsity", str(config["final_sparsity"])),
                *("--seed", str(config["seed"]), "--out", str(place / cell.name)),
                *("--compilation-cache", str(place / "b")),
            )
        seconds["one by one"] = time.perf_counter() - start
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="of the rounds")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "synthetic.npz"
        synthetic(data)
        result = in_process(data, arguments.repeats)
        print("by round, the largest difference from the single runs:")
        print(", ".join(f"{d:.1e}" for d in result["largest_difference_by_round"]))
        medians = {
            name: statistics.median(values)
            for name, values in result["round_seconds"].items()
        }
        compiled = result["compile_seconds"]
        rows = {"rounds": medians}
        rows["with compile"] = {n: medians[n] + compiled[n] for n in medians}
        print(rows, flush=True)
        rows["commands"] = commands(data)
    ratios = {name: row["sweep"] / row["one by one"] for name, row in rows.items()}
    print(f"{'seconds of 8 runs':18} {'sweep':>8} {'one by one':>11}  ratio")
    for name, row in rows.items():
        print(
            f"{name:18} {row['sweep']:8.2f} {row['one by one']:11.2f}  "
            f"{ratios[name]:.3f} (goal <= {GOAL})"
        )
    if arguments.out:
        write_result(arguments.out, {**result, "seconds": rows, "ratios": ratios})


if __name__ == "__main__":
    main()

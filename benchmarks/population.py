"""A population on disk: 100,000 clients, 100 a round, against the same in memory.

Claim: with ``--client-data disk`` resident memory stays below 2 GB and a round takes at
most 1.10 x that of ``--client-data memory``.

Work: a store of 100,000 synthetic clients of 16 to 24 images of 28x28 (1.6 GB of files,
written first and deleted at the end), the 118,282-parameter MLP, FedSparsify-Global,
100 clients a round, 4 local epochs, batch 10, SGD 0.02, an evaluation on 1,000 images
after every round: the programs that `fedsparsify train` runs, on the devices that it
takes. Each path lives in a process of its own; they take turns, a block of rounds each.
A block begins with nothing read ahead and ends with nothing under way, so no reading is
hidden in the other's turn.

    python benchmarks/population.py --out FILE.json

Memory is what Linux says of each process (``/proc/self/status``) after its last round,
and its peak. Run nothing else meanwhile. About six minutes on 2 cores.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result

from fedsparsify_jax import data
from fedsparsify_jax.runner import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.programs.devices import select
from fedsparsify_jax.runner.programs.federation import Keys, assemble
from fedsparsify_jax.runner.programs.program import RoundProgram
from fedsparsify_jax.runner.programs.sources import InMemory, OnDisk, Read

COHORT, SHORTEST, LONGEST, CLASSES = 100, 16, 24, 10
KINDS = ("memory", "disk")
GOAL_RATIO, GOAL_MB = 1.10, 2000


def write_store(directory: Path, clients: int) -> None:
    """Streams the clients to disk; every class is a pattern under noise."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 128, (CLASSES, 28, 28), dtype=np.uint8)

    def images(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, CLASSES, count)
        noise = rng.integers(0, 128, (count, 28, 28), dtype=np.uint8)
        return patterns[y] + noise, y

    test = images(1000)
    with data.PopulationWriter(directory, *test, num_classes=CLASSES) as store:
        for _ in range(clients):
            store.append(*images(int(rng.integers(SHORTEST, LONGEST + 1))))


def resident() -> dict[str, float]:
    """Megabytes of this process by kind: of its own, mapped files, all; the peak."""
    wanted = {"RssAnon": "own", "RssFile": "files", "VmRSS": "all", "VmHWM": "peak"}
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {
        name: int(fields[field].split()[0]) / 1000 for field, name in wanted.items()
    }


class Worker:
    """One path: the program of a run, as `fedsparsify train` makes it."""

    def __init__(self, kind: str, store: Path, clients: int):
        config = resolve(
            TrainConfig(
                dataset="store",
                data_dir=store,
                client_data=kind,
                participation=COHORT / clients,
                rounds=10_000,
                local_epochs=4,
                batch_size=10,
                learning_rate=0.02,
            )
        )
        federation = assemble(config, select(None))
        placement, keys = federation.placement, Keys.from_seed(0)
        variables = federation.model.init(keys.model)
        self.state = placement.put_state(
            federation.algorithm.init(keys.state, variables)
        )
        in_memory = kind == "memory"
        self.source = (
            InMemory(federation) if in_memory else OnDisk(federation, keys.rounds)
        )
        self.program = RoundProgram(federation, self.source, keys.rounds)
        self.program.compile(self.state, 1)
        self.completed = 0

    def play(self, read: Read, rounds: int) -> list[float]:
        """Seconds of each of the next rounds."""
        seconds = []
        for left in range(rounds - 1, -1, -1):
            start = time.perf_counter()
            batch = read(self.completed, 1, min(left, 1))
            self.state, _ = self.program(self.state, 1, batch)
            seconds.append(time.perf_counter() - start)
            self.completed += 1
        return seconds


def serve(kind: str, store: Path, clients: int) -> None:
    """A worker's process: a number of rounds a line in, seconds a line out."""
    worker = Worker(kind, store, clients)
    print(json.dumps(resident()), flush=True)
    with worker.source.reading(store) as read:
        for line in sys.stdin:
            print(json.dumps(worker.play(read, int(line))), flush=True)
    loss = float(worker.state.variables["params"]["Dense_0"]["kernel"].sum())
    print(json.dumps({"memory": resident(), "sum": loss}), flush=True)


def measure(store: Path, clients: int, blocks: int, rounds: int) -> dict[str, Any]:
    """Lets both workers take turns."""
    command = [sys.executable, __file__, "--store", str(store)]
    command += ["--clients", str(clients), "--worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = {kind: subprocess.Popen([*command, kind], **pipes) for kind in KINDS}

    def read(kind: str) -> Any:
        line = workers[kind].stdout.readline()
        if not line:
            raise RuntimeError(f"the {kind} worker ended early")
        return json.loads(line)

    start = {kind: read(kind) for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    means: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for block in range(blocks + 1):
        for kind in KINDS if block % 2 else reversed(KINDS):
            workers[kind].stdin.write(f"{rounds}\n")
            workers[kind].stdin.flush()
            taken = read(kind)
            if block:  # the first one warms up
                seconds[kind] += taken
                means[kind].append(statistics.fmean(taken))
    ends = {}
    for kind, worker in workers.items():
        worker.stdin.close()
        ends[kind] = read(kind)
        worker.wait()
    return {
        "memory_at_start_mb": start,
        "memory_at_end_mb": {kind: end["memory"] for kind, end in ends.items()},
        "same_model": ends["memory"]["sum"] == ends["disk"]["sum"],
        "round_seconds": seconds,
        "block_mean_seconds": means,
    }


def report(result: dict[str, Any]) -> None:
    medians = {k: statistics.median(v) for k, v in result["round_seconds"].items()}
    blocks = {k: statistics.median(v) for k, v in result["block_mean_seconds"].items()}
    result["medians"], result["block_medians"] = medians, blocks
    result["ratio"] = medians["disk"] / medians["memory"]
    result["block_ratio"] = blocks["disk"] / blocks["memory"]
    print("path    median s  block s   own MB  files MB  all MB  peak MB")
    for kind in KINDS:
        mb = result["memory_at_end_mb"][kind]
        print(
            f"{kind:7} {medians[kind]:8.4f} {blocks[kind]:8.4f} {mb['own']:8.0f} "
            f"{mb['files']:9.0f} {mb['all']:7.0f} {mb['peak']:8.0f}"
        )
    peak = result["memory_at_end_mb"]["disk"]["peak"]
    print(f"same model after all rounds: {result['same_model']}")
    print(
        f"disk / memory: {result['ratio']:.3f} (median round), "
        f"{result['block_ratio']:.3f} (median block; goal <= {GOAL_RATIO})"
    )
    print(f"peak memory of disk: {peak:.0f} MB (goal < {GOAL_MB})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--blocks", type=int, default=12, help="timed turns each")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of a turn")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(arguments.worker, arguments.store, arguments.clients)
        return
    home = Path(tempfile.mkdtemp(prefix="fedsparsify-population-"))
    try:
        start = time.perf_counter()
        write_store(home / "store", arguments.clients)
        seconds = time.perf_counter() - start
        files = sum(file.stat().st_size for file in (home / "store").iterdir())
        print(f"{arguments.clients:,} clients, {files / 1e9:.2f} GB in {seconds:.0f} s")
        result = measure(
            home / "store", arguments.clients, arguments.blocks, arguments.rounds
        )
        report(result)
        result |= {"clients": arguments.clients, "files_gb": files / 1e9}
        result |= {"seconds_to_write": seconds}
        if arguments.out:
            write_result(arguments.out, result)
    finally:
        shutil.rmtree(home)


if __name__ == "__main__":
    main()

"""What checkpoints cost while a run goes on.

Claim: a checkpoint every 10 rounds costs at most 2 % of the wall time of the paper's
FashionMNIST federation (10 clients, MLP of 118,282 parameters).

Ten rounds without and ten rounds with a checkpoint take turns in one process, on the
same compiled program. A checkpoint is begun before its ten rounds, as in a run, and
waited for after them; files are synchronised to disk, checksummed and old ones removed,
as in a run. Also printed: the same of processor time, which other processes disturb
less; for how long the loop stands still for it, and how long one
takes from beginning to end when nothing else runs.

    python benchmarks/checkpointing.py --out benchmarks/results-checkpointing.json

Run nothing else meanwhile. About three minutes on 2 cores.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import write_result

from fedsparsify_jax.runner.display.summary import round_record
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import to_json
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.programs.devices import select
from fedsparsify_jax.runner.programs.federation import Keys, assemble
from fedsparsify_jax.runner.programs.program import RoundProgram
from fedsparsify_jax.runner.programs.sources import InMemory
from fedsparsify_jax.runner.storage.checkpoints import Checkpoints
from fedsparsify_jax.types import State

EVERY = 10


class Run:
    """The federation on its way, with the records that a run would have."""

    def __init__(self) -> None:
        self.config = resolve(TrainConfig(dataset="fashion_mnist"))
        federation = assemble(self.config, select(None))
        keys = Keys.from_seed(0)
        state = federation.algorithm.init(keys.state, federation.model.init(keys.model))
        self.state: State = federation.placement.put_state(state)
        source = InMemory(federation)
        self.program = RoundProgram(federation, source, keys.rounds)
        self.data = source.shapes(1)  # of data in memory, the data themselves
        self.program.compile(self.state, 1)
        self.records: list[dict[str, Any]] = []

    def play(self, rounds: int) -> None:
        """Rounds as `training` plays them."""
        for _ in range(rounds):
            self.state, (report,) = self.program(self.state, 1, self.data)
            self.records.append(round_record(report, "accuracy", 1, 0.0))

    def save(self, checkpoints: Checkpoints) -> float:
        """Begins a checkpoint; the seconds that takes."""
        start = time.perf_counter()
        checkpoints.save(int(self.state.round), self.state, self.records, 0.5)
        return time.perf_counter() - start


def measure(turns: int) -> dict[str, Any]:
    """Seconds of ten rounds, with and without, ``turns`` times each."""
    run = Run()
    run.play(3)
    plain, saving, still, whole = [], [], [], []
    plain_cpu, saving_cpu = [], []
    content = {"options": to_json(run.config)}
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(Path(folder), content) as checkpoints,
    ):
        run.save(checkpoints)  # the first one loads and makes what all need
        checkpoints.wait()
        for _ in range(turns):
            start, cpu = time.perf_counter(), time.process_time()
            run.play(EVERY)
            plain.append(time.perf_counter() - start)
            plain_cpu.append(time.process_time() - cpu)
            start, cpu = time.perf_counter(), time.process_time()
            still.append(run.save(checkpoints))
            run.play(EVERY)
            checkpoints.wait()
            saving.append(time.perf_counter() - start)
            saving_cpu.append(time.process_time() - cpu)
            run.play(1)
            start = time.perf_counter()
            run.save(checkpoints)
            checkpoints.wait()
            whole.append(time.perf_counter() - start)
            print(f"without {plain[-1]:.2f} s, with {saving[-1]:.2f} s", flush=True)
    middle = statistics.median
    return {
        "turns": turns,
        "rounds_a_turn": EVERY,
        "seconds_without": middle(plain),
        "seconds_with": middle(saving),
        "cost": middle(b / a for a, b in zip(plain, saving, strict=True)) - 1,
        "cost_of_medians": middle(saving) / middle(plain) - 1,
        "cost_in_processor_time": middle(
            b / a for a, b in zip(plain_cpu, saving_cpu, strict=True)
        )
        - 1,
        "seconds_standing_still": middle(still),
        "seconds_alone": middle(whole),
        "share_if_nothing_overlapped": middle(whole) / middle(plain),
        "all_seconds_without": plain,
        "all_seconds_with": saving,
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = measure(options.turns)
    for name, value in result.items():
        print(f"{name}: {value}")
    if options.out:
        write_result(options.out, result)


if __name__ == "__main__":
    main()

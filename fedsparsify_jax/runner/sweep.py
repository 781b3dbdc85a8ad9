"""``fedsparsify sweep``: all combinations of options, as few compiled programs.

Cells that differ in traced numbers and seeds alone are a group, one program, and are
trained side by side; groups follow one another. A cell that is finished is never run
again; a group that was interrupted goes on from its last checkpoint.
"""

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
from rich.console import Console

from fedsparsify_jax import data
from fedsparsify_jax.client_map import vmapped
from fedsparsify_jax.metrics.communication import dense_bytes
from fedsparsify_jax.runner import finish
from fedsparsify_jax.runner.display.progress import duration
from fedsparsify_jax.runner.display.records import Record, round_record
from fedsparsify_jax.runner.display.sweep_progress import (
    Grid,
    SweepReporter,
    results,
    sweep_reporter,
)
from fedsparsify_jax.runner.options.config import TrainConfig, to_json
from fedsparsify_jax.runner.options.sweep_config import values
from fedsparsify_jax.runner.options.sweep_grid import Cell, cells, groups
from fedsparsify_jax.runner.process import compilation_cache
from fedsparsify_jax.runner.process.signals import Stop, Stopped, catching
from fedsparsify_jax.runner.programs.devices import choose
from fedsparsify_jax.runner.programs.federation import Federation, assemble, load
from fedsparsify_jax.runner.programs.keys import Keys
from fedsparsify_jax.runner.programs.sweep_program import (
    AT_MOST,
    GroupProgram,
    algorithm_of,
    partitions,
)
from fedsparsify_jax.runner.storage.fingerprints import fingerprints
from fedsparsify_jax.runner.storage.lock import locked
from fedsparsify_jax.runner.storage.partition_file import describe_partition
from fedsparsify_jax.runner.storage.sweep_checkpoints import GroupCheckpoints
from fedsparsify_jax.runner.storage.sweep_directory import (
    SweepDirectory,
    compared,
    default_path,
)

_CALL_SECONDS = 2.0
"""Wanted between two signs of life, if the rounds of a cell are short enough."""


@functools.lru_cache(maxsize=2)
def _cached(source: TrainConfig) -> data.Dataset:
    return load(source)


def _dataset(config: TrainConfig) -> data.Dataset:
    """What `load` gives; groups with the same data follow one another without delay."""
    fields = ["dataset", "data_dir", "train_subset"]
    if config.train_subset is not None:
        fields.append("seed")
    return _cached(TrainConfig(**{field: getattr(config, field) for field in fields}))


class _Sweep:
    """A sweep on its way."""

    def __init__(
        self,
        every: list[Cell],
        directory: SweepDirectory,
        devices: list[Any],
        signal: Stop,
    ):
        self._every, self._directory, self._devices = every, directory, devices
        self._signal = signal
        summaries = {n: directory.summary(cell) for n, cell in enumerate(every)}
        done = {n: found for n, found in summaries.items() if found is not None}
        self._number = {id(cell): number for number, cell in enumerate(every)}
        self.grid = Grid(every, done)
        pending = [cell for n, cell in enumerate(every) if n not in done]
        self.groups = groups(pending)
        self._finished = len(done)

    def check(self) -> None:
        """Everything that could be wrong with a cell, before a file is written."""
        for group in self.groups:
            federation = self._assemble(group[0])
            partitions(group, federation.dataset.train.y)
            for cell in group:
                algorithm_of(federation, cell, vmapped())

    def _assemble(self, cell: Cell) -> Federation:
        return assemble(cell.config, self._devices, _dataset(cell.config))

    def describe(self) -> str:
        """What is going to happen, in a line."""
        waiting = len(self._every) - self._finished
        text = f"sweep of {len(self._every)} runs in {self._directory.path}"
        if self._finished:
            text += f": {self._finished} are finished already"
        if waiting:
            programs, devices = len(self.groups), len(self._devices)
            text += (
                f"; {waiting} to train as {programs} program"
                f"{'s' * (programs != 1)} on {devices} device{'s' * (devices != 1)}"
            )
        return text

    def play(self, group: Sequence[Cell], reporter: SweepReporter) -> None:
        """Trains a group and writes its run directories."""
        federation = self._assemble(group[0])
        program = GroupProgram(federation, group, self._devices)
        runs = [self._directory.run(cell) for cell in group]
        records: list[list[Record]] = [[] for _ in group]
        with self._checkpoints(federation, program, group) as saved:
            found = saved.restore(program.state)
            if found is not None:
                program.state, records = found
            divided = partitions(group, federation.dataset.train.y)
            for cell, run, rows in zip(group, runs, records, strict=True):
                run.claim()
                parts = divided[cell.config.seed]
                run.write_partition(
                    describe_partition(federation.dataset.train.y, parts)
                )
                run.rewind(rows)
            numbers = [self._number[id(cell)] for cell in group]
            with self._signal.gentle():
                self._rounds(
                    federation, program, group, numbers, reporter, records, saved
                )
            self._write(federation, program, group, records)
            saved.remove()
        self.grid.finished(numbers)
        reporter.changed(numbers)
        self._directory.write_table()

    def _checkpoints(
        self, federation: Federation, program: GroupProgram, group: Sequence[Cell]
    ) -> GroupCheckpoints:
        """Those of a group; other cells, data or numbers of devices have others."""
        keys = [key for c in group for key in Keys.from_seed(c.config.seed)]
        side_by_side = jax.tree.leaves(program.state.variables)[0].shape[0]
        decisive = [
            [compared(to_json(cell.config)) for cell in group],
            fingerprints(federation, keys),
            side_by_side,
        ]
        return GroupCheckpoints(self._directory.path, decisive)

    def _write(
        self,
        federation: Federation,
        program: GroupProgram,
        group: Sequence[Cell],
        records: Sequence[list[Record]],
    ) -> None:
        """Models and summaries of a group that is over."""
        for index, cell in enumerate(group):
            algorithm = algorithm_of(federation, cell, vmapped())
            finish.write(
                self._directory.config(cell),
                federation._replace(algorithm=algorithm),
                self._directory.run(cell),
                program.finished(index),
                records[index],
            )

    def _rounds(
        self,
        federation: Federation,
        program: GroupProgram,
        group: Sequence[Cell],
        numbers: Sequence[int],
        reporter: SweepReporter,
        records: list[list[Record]],
        saved: GroupCheckpoints,
    ) -> None:
        """Plays the rounds that are left of a group; adds to every cell's records."""
        runs = [self._directory.run(cell) for cell in group]
        config, metric = group[0].config, federation.task.metric
        dense = dense_bytes(jax.eval_shape(federation.model.init, jax.random.key(0)))
        total, completed, now = config.rounds or 0, len(records[0]), 1
        while completed < total:
            now = min(now, total - completed, AT_MOST)
            start = time.perf_counter()
            infos, seen = program(now)
            # Of one round of one cell: the time they share, divided among them.
            seconds = (time.perf_counter() - start) / (now * len(group))
            for index, run in enumerate(runs):
                for t in range(now):
                    info, evaluations = jax.tree.map(
                        lambda leaf, at=(index, t): leaf[at], (infos, seen)
                    )
                    last = completed + t + 1
                    due = last % config.evaluate_every == 0 or last == total
                    record = round_record(
                        info, evaluations, metric, dense, seconds, due=due
                    )
                    run.append(record)
                    records[index].append(record)
            completed += now
            latest = zip(numbers, records, strict=True)
            self.grid.played({number: rows[-1] for number, rows in latest})
            reporter.changed(numbers)
            now = max(1, int(_CALL_SECONDS / max(seconds * len(group), 1e-6)))
            ended = self._signal.number
            saved.save(program.state, records, now=ended > 0)
            if ended:
                reached = f"{self._finished_now()} of {len(self._every)} runs finished"
                raise Stopped(ended, self._directory.path, reached)

    def _finished_now(self) -> int:
        return sum(self._directory.summary(cell) is not None for cell in self._every)


def sweep(config: Any, console: Console | None = None) -> list[dict[str, Any]]:
    """Trains every combination of the options' values that is not finished yet.

    Args:
      config: a `sweep_config.SweepConfig`.
      console: where progress goes; standard output by default.

    Returns:
      The summaries of all cells, seeds innermost.

    Raises:
      InputError: one line that says what is wrong and what to do.
      Stopped: a `KeyboardInterrupt`, after SIGTERM or SIGINT and saving.
    """
    console = console or Console(highlight=False)
    given = values(config)
    every = cells(given)
    named = {"dataset": sorted({cell.config.dataset for cell in every})}
    out = config.out or default_path(named | given)
    directory = SweepDirectory(out, given, every)
    devices = choose(config.devices)
    compilation_cache.enable(config.compilation_cache)
    with catching() as signal:
        going = _Sweep(every, directory, devices, signal)
        going.check()
        console.print(going.describe(), soft_wrap=True)
        start = time.perf_counter()
        with locked(out):
            directory.claim()
            with sweep_reporter(console, going.grid) as reporter:
                for group in going.groups:
                    going.play(group, reporter)
            directory.write_table()
    summaries = [directory.summary(cell) or {} for cell in every]
    console.print("\n" + results(every, summaries), soft_wrap=True, markup=False)
    console.print(
        f"\n{len(every)} runs in {out}, {duration(time.perf_counter() - start)}",
        soft_wrap=True,
    )
    return summaries

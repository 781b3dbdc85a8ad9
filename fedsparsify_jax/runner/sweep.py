"""``fedsparsify sweep``: all combinations of options, as few compiled programs.

Trials that differ in traced numbers and seeds alone are a program group and are trained
side by side; groups follow one another. A trial that is finished is never run again; a
group that was interrupted goes on from its last checkpoint.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from rich.console import Console

from fedsparsify_jax import data
from fedsparsify_jax.client_map import vmapped
from fedsparsify_jax.runner import finish, loop
from fedsparsify_jax.runner.display.progress import counted, duration
from fedsparsify_jax.runner.display.sweep_progress import (
    Grid,
    results,
    sweep_reporter,
)
from fedsparsify_jax.runner.options import sweep_grid
from fedsparsify_jax.runner.options.config import TrainConfig, to_json
from fedsparsify_jax.runner.options.sweep_config import values
from fedsparsify_jax.runner.options.sweep_grid import Trial
from fedsparsify_jax.runner.process import compilation_cache
from fedsparsify_jax.runner.process.signals import Stop, Stopped, catching
from fedsparsify_jax.runner.programs import devices
from fedsparsify_jax.runner.programs.federation import (
    Federation,
    Keys,
    algorithm_of,
    assemble,
    load,
)
from fedsparsify_jax.runner.programs.sweep_program import (
    AT_MOST,
    GroupProgram,
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
from fedsparsify_jax.types import State

_CALL_SECONDS = 2.0
"""Time between two lines of progress, if rounds are short enough."""


@functools.lru_cache(maxsize=2)
def _load(**fields: Any) -> data.Dataset:
    return load(TrainConfig(**fields))


def _dataset(config: TrainConfig) -> data.Dataset:
    """Returns what `load` does; from memory if the group before had the same data."""
    subset = config.train_subset
    seed = {} if subset is None else {"seed": config.seed}
    source = {"dataset": config.dataset, "data_dir": config.data_dir}
    return _load(**source, train_subset=subset, **seed)


def _plan(state: State, completed: int, seconds: float) -> int:
    """Returns the rounds of the next call: one at first, then by the clock."""
    return min(max(1, int(_CALL_SECONDS / max(seconds, 1e-6))), AT_MOST)


def _with_algorithm(federation: Federation, trial: Trial) -> Federation:
    """Returns the federation of a group with the algorithm of one of its trials."""
    model, dataset = federation.model, federation.dataset
    algorithm = algorithm_of(trial.config, model, dataset, vmapped())
    return federation._replace(algorithm=algorithm)


class _Sweep:
    """A sweep in progress.

    Attributes:
      grid: how far every trial is.
      groups: the program groups that are left.
    """

    def __init__(
        self,
        trials: list[Trial],
        directory: SweepDirectory,
        selected: list[Any],
        signal: Stop,
    ):
        self._trials, self._directory = trials, directory
        self._devices, self._signal = selected, signal
        self._numbers = {id(trial): number for number, trial in enumerate(trials)}
        finished = self._finished()
        self.grid = Grid(trials, finished)
        pending = [trial for n, trial in enumerate(trials) if n not in finished]
        self.groups = sweep_grid.program_groups(pending)

    def _finished(self) -> dict[int, dict[str, Any]]:
        """Returns the summaries that are there, by the trial's number."""
        summaries = map(self._directory.summary, self._trials)
        return {
            number: summary
            for number, summary in enumerate(summaries)
            if summary is not None
        }

    def _assemble(self, trial: Trial) -> Federation:
        return assemble(trial.config, self._devices, _dataset(trial.config))

    def check(self) -> None:
        """Checks everything that could be wrong with a trial, before a file is made."""
        for group in self.groups:
            federation = self._assemble(group[0])
            partitions(group, federation.dataset.train.y)
            for trial in group:
                _with_algorithm(federation, trial)

    def describe(self) -> str:
        """Returns what is going to happen, in a line."""
        waiting = sum(map(len, self.groups))
        text = f"sweep of {len(self._trials)} runs in {self._directory.path}"
        if waiting < len(self._trials):
            text += f": {len(self._trials) - waiting} are finished already"
        if waiting:
            programs = counted(len(self.groups), "program")
            on = counted(len(self._devices), "device")
            text += f"; {waiting} to train as {programs} on {on}"
        return text

    def train(
        self, group: Sequence[Trial], show: Callable[[Sequence[int]], None]
    ) -> None:
        """Trains a program group and writes its run directories."""
        federation = self._assemble(group[0])
        program = GroupProgram(federation, group, self._devices)
        numbers = [self._numbers[id(trial)] for trial in group]
        state = program.init()
        with self._checkpoints(federation, state, group) as checkpoints:
            # From the last checkpoint, or from the start.
            saved = checkpoints.restore(state)
            state, records = saved or (state, [[] for _ in group])
            directories = map(self._directory.run, group)
            runs = list(map(loop.Run, directories, records))
            self._begin(federation, group, runs)

            # The rounds that are left.
            pauses = loop.rounds(
                group[0].config,
                federation,
                runs,
                state,
                self._signal,
                plan=_plan,
                step=lambda state, completed, rounds: program(state, rounds),
            )
            with self._signal.gentle():
                for pause in pauses:
                    state = pause.state
                    latest = zip(numbers, pause.latest, strict=True)
                    self.grid.update({number: rows[-1] for number, rows in latest})
                    show(numbers)
                    checkpoints.save(state, records, now=pause.signal > 0)
                    if pause.signal:
                        number, total = len(self._finished()), len(self._trials)
                        reached = f"{number} of {total} runs finished"
                        raise Stopped(pause.signal, self._directory.path, reached)

            # Models and summaries.
            for number, (trial, run) in enumerate(zip(group, runs, strict=True)):
                finish.write(
                    self._directory.config(trial),
                    _with_algorithm(federation, trial),
                    run.directory,
                    program.finished(state, number),
                    run.records,
                )
            checkpoints.remove()
        self.grid.finish(numbers)
        show(numbers)
        self._directory.write_table()

    def _begin(
        self, federation: Federation, group: Sequence[Trial], runs: Sequence[loop.Run]
    ) -> None:
        """Makes the run directories what the checkpoint has seen."""
        targets = federation.dataset.train.y
        parts = partitions(group, targets)
        for trial, run in zip(group, runs, strict=True):
            run.directory.claim()
            content = describe_partition(targets, parts[trial.config.seed])
            run.directory.write_partition(content)
            run.directory.rewind(run.records)

    def _checkpoints(
        self, federation: Federation, state: State, group: Sequence[Trial]
    ) -> GroupCheckpoints:
        """Returns a group's; other trials, data or numbers of devices have others."""
        keys = [key for trial in group for key in Keys.from_seed(trial.config.seed)]
        side_by_side = jax.tree.leaves(state.variables)[0].shape[0]
        decisive = [
            [compared(to_json(trial.config)) for trial in group],
            fingerprints(federation, keys),
            side_by_side,
        ]
        return GroupCheckpoints(self._directory.path, decisive)


def sweep(config: Any, console: Console | None = None) -> list[dict[str, Any]]:
    """Trains every combination of the options' values that is not finished yet.

    Args:
      config: a `sweep_config.SweepConfig`.
      console: where progress goes; standard output by default.

    Returns:
      The summaries of all trials, seeds innermost.

    Raises:
      InputError: one line that says what is wrong and what to do.
      Stopped: a `KeyboardInterrupt`, after SIGTERM or SIGINT and saving.
    """
    console = console or Console(highlight=False)
    axes = values(config)
    trials = sweep_grid.trials(axes)
    named = {"dataset": sorted({trial.config.dataset for trial in trials})}
    out = config.out or default_path(named | axes)
    directory = SweepDirectory(out, axes, trials)
    selected = devices.select(config.devices)
    compilation_cache.enable(config.compilation_cache)
    with catching() as signal:
        running = _Sweep(trials, directory, selected, signal)
        running.check()
        console.print(running.describe(), soft_wrap=True)
        start = time.perf_counter()
        with locked(out):
            directory.claim()
            with sweep_reporter(console, running.grid) as show:
                for group in running.groups:
                    running.train(group, show)
            directory.write_table()
    summaries = [directory.summary(trial) or {} for trial in trials]
    console.print("\n" + results(trials, summaries), soft_wrap=True, markup=False)
    console.print(
        f"\n{len(trials)} runs in {out}, {duration(time.perf_counter() - start)}",
        soft_wrap=True,
    )
    return summaries

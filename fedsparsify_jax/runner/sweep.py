"""``fedsparsify sweep``: all combinations of options, as few compiled programs.

Trials that differ in traced numbers and seeds alone are a program group and are trained
side by side; groups follow one another. A trial that is finished is never run again; a
group that was interrupted goes on from its last checkpoint. With ``--share`` groups are
cut into pieces, and a process trains those that no other has claimed.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
from rich.console import Console

from fedsparsify_jax import data
from fedsparsify_jax.client_map import vmapped
from fedsparsify_jax.errors import counted
from fedsparsify_jax.runner import (
    finish,
    flops,
    launching,
    loop,
    sweep_plan,
    sweep_status,
)
from fedsparsify_jax.runner.display.progress import duration
from fedsparsify_jax.runner.display.sweep_progress import Grid, sweep_reporter
from fedsparsify_jax.runner.options import privacy, sweep_grid
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import to_json
from fedsparsify_jax.runner.options.sharing import Share
from fedsparsify_jax.runner.options.sweep_grid import Trial, chooses_examples
from fedsparsify_jax.runner.process import compilation_cache
from fedsparsify_jax.runner.process.signals import Stop, Stopped, catching
from fedsparsify_jax.runner.programs import devices
from fedsparsify_jax.runner.programs.federation import (
    OF_LOADERS,
    Federation,
    Keys,
    algorithm_of,
    assemble,
    load,
)
from fedsparsify_jax.runner.programs.natural import origin
from fedsparsify_jax.runner.programs.sweep_program import (
    AT_MOST,
    GroupProgram,
    partitions,
)
from fedsparsify_jax.runner.storage import resume
from fedsparsify_jax.runner.storage.checkpoint_files import Record
from fedsparsify_jax.runner.storage.claims import (
    alone,
    at_work,
    claimed,
    in_common,
    taking_part,
)
from fedsparsify_jax.runner.storage.run_directory import random_name, versions
from fedsparsify_jax.runner.storage.sweep_checkpoints import (
    GroupCheckpoints,
    remove_all,
)
from fedsparsify_jax.runner.storage.sweep_directory import SweepDirectory, compared
from fedsparsify_jax.runner.sweep_plan import SweepPlan
from fedsparsify_jax.types import State

_CALL_SECONDS = 2.0
"""Time between two lines of progress, if rounds are short enough."""


_load = functools.lru_cache(maxsize=2)(load)


def _dataset(config: TrainConfig) -> data.Dataset:
    """Returns the data set; from memory if the group before had the same."""
    decisive = {"dataset", "data_dir", *OF_LOADERS} - {"seed"}
    decisive |= {"seed"} if chooses_examples(config) else set()
    return _load(
        TrainConfig(**{name: getattr(config, name) for name in sorted(decisive)})
    )


def _next_rounds(state: State, completed: int, seconds: float) -> int:
    """Returns the rounds of the next call: one at first, then by the clock."""
    return min(max(1, int(_CALL_SECONDS / max(seconds, 1e-6))), AT_MOST)


def _with_algorithm(federation: Federation, trial: Trial) -> Federation:
    """Returns the federation of a group with the algorithm of one of its trials."""
    model, dataset = federation.model, federation.dataset
    clients = len(federation.parts)
    algorithm = algorithm_of(
        trial.config, model, dataset, vmapped(), num_clients=clients
    )
    return federation._replace(algorithm=algorithm)


class _Sweep(NamedTuple):
    """Everything that the groups of a sweep have in common."""

    trials: list[Trial]
    directory: SweepDirectory
    devices: list[Any]
    stop: Stop
    grid: Grid  # how far every trial is
    share: Share | None  # of this process, if there are others

    def assemble(self, trial: Trial) -> Federation:
        """Returns a trial's federation."""
        return assemble(trial.config, self.devices, _dataset(trial.config))

    def left(self, trials: Sequence[Trial]) -> list[Trial]:
        """Returns those of some trials that no process has finished."""
        return [trial for trial in trials if self.directory.summary(trial) is None]

    def look(self) -> None:
        """Takes what other processes have finished into the grid."""
        summaries = {n: self.directory.summary(t) for n, t in enumerate(self.trials)}
        finished = {n: summary for n, summary in summaries.items() if summary}
        self.grid.finish_others(finished)

    def is_last(self) -> bool:
        """Returns whether all is finished and no other process is at work."""
        own = set() if self.share is None else {self.share.name}
        others = at_work(self.directory.path).keys() - own
        return not others and not self.left(self.trials)

    def taking_part(self) -> contextlib.AbstractContextManager[None]:
        """Holds the sweep, or this process's share of it."""
        path = self.directory.path
        return alone(path) if self.share is None else taking_part(path, self.share)

    def in_common(self) -> contextlib.AbstractContextManager[None]:
        """Holds the files that processes have in common, if there are several."""
        alone = self.share is None
        return contextlib.nullcontext() if alone else in_common(self.directory.path)


def sweep(config: Any, console: Console | None = None) -> list[dict[str, Any]]:
    """Trains every combination of the options' values that is not finished yet.

    Args:
      config: a `sweep_config.SweepConfig`.
      console: where progress goes; standard output by default.

    Returns:
      The summaries of all trials, seeds innermost; an empty one for a trial that is not
      finished, which can be with ``share`` and ``status``.

    Raises:
      InputError: one line that says what is wrong and what to do.
      Stopped: a `KeyboardInterrupt`, after SIGTERM or SIGINT and saving.
    """
    console = console or Console(highlight=False)
    if config.status:
        return sweep_status.show(config, console)
    if config.launcher is not None:
        return launching.launch(config, console)
    planned, start = sweep_plan.plan(config), time.perf_counter()
    _train(planned, config, console)
    summaries = planned.conclude(console)
    time_taken = duration(time.perf_counter() - start)
    runs = counted(sum(map(bool, summaries)), "run")
    console.print(f"\n{runs} in {planned.directory.path}, {time_taken}", soft_wrap=True)
    return summaries


def _train(planned: SweepPlan, config: Any, console: Console) -> None:
    """Trains what is left of a sweep, or a process's share of it."""
    trials, directory = planned.trials, planned.directory
    share = None if config.share is None else Share.parse(config.share)
    left = [trial for trial in trials if trial.name not in planned.finished]
    # Processes that share a sweep cut all of it, however much is finished already.
    groups = sweep_grid.program_groups(left if share is None else trials)
    work = groups if share is None else sweep_grid.pieces(groups, share)
    selected = devices.select(config.devices)
    compilation_cache.enable(config.compilation_cache)
    with catching() as stop:
        finished = (planned.finished.get(trial.name) for trial in trials)
        grid = Grid(trials, {n: row for n, row in enumerate(finished) if row})
        running = _Sweep(trials, directory, selected, stop, grid, share)
        for group in sweep_grid.program_groups(left):
            _check(running, group)
        console.print(_described(running, len(left), len(work)), soft_wrap=True)
        with running.taking_part():
            with running.in_common():
                directory.write_options(planned.axes)
            with sweep_reporter(console, grid) as show:
                if share is None:
                    for group in work:
                        _train_group(running, group, show)
                else:
                    _train_unclaimed(running, work, show)
            with running.in_common():
                directory.write_table(trials)
                if running.is_last():
                    remove_all(directory.path)


def _train_unclaimed(
    sweep: _Sweep,
    pieces: Sequence[Sequence[Trial]],
    show: Callable[[Sequence[int]], None],
) -> None:
    """Trains what no other process has claimed, until there is no more of it.

    A process that is killed lets go of what it had claimed, so those that are still at
    work come back to it.
    """
    waiting, progress = list(pieces), True
    while progress:
        progress = False
        for piece in waiting:
            runs = [sweep.directory.runs[trial.name] for trial in sweep.left(piece)]
            with claimed(runs) as mine:
                # What another process has finished meanwhile is not run again.
                left = [
                    trial
                    for trial in sweep.left(piece)
                    if sweep.directory.runs[trial.name] in mine
                ]
                if left:
                    _train_group(sweep, left, show)
                    sweep.look()
                    progress = True
        waiting = [piece for piece in waiting if sweep.left(piece)]


def _check(sweep: _Sweep, group: Sequence[Trial]) -> None:
    """Refuses what can be wrong with the trials of a group."""
    federation = sweep.assemble(group[0])
    partitions(group, federation.dataset)
    for trial in group:
        _with_algorithm(federation, trial)


def _described(sweep: _Sweep, waiting: int, programs: int) -> str:
    """Returns what is going to happen, in a line."""
    runs = counted(len(sweep.trials), "run")
    text = f"sweep of {runs} in {sweep.directory.path}"
    if waiting < len(sweep.trials):
        text += f": {len(sweep.trials) - waiting} are finished already"
    if waiting:
        parts = counted(programs, "program" if sweep.share is None else "piece")
        on = counted(len(sweep.devices), "device")
        text += f"; {waiting} to train as {parts} on {on}"
    if sweep.share is not None:
        text += f", this is share {sweep.share}"
    return text


def _train_group(
    sweep: _Sweep, group: Sequence[Trial], show: Callable[[Sequence[int]], None]
) -> None:
    """Trains a program group and writes its run directories."""
    federation, directory = sweep.assemble(group[0]), sweep.directory
    program = GroupProgram(federation, group, sweep.devices)
    names = {trial.name for trial in group}
    numbers = [n for n, trial in enumerate(sweep.trials) if trial.name in names]
    state = program.init()
    with _checkpoints(directory.path, federation, state, group) as checkpoints:
        # From the last checkpoint, or from the start.
        state, records = checkpoints.restore(state) or (state, [[] for _ in group])
        runs = _begin(directory, federation, group, records)

        # The rounds that are left.
        pauses = loop.rounds(
            group[0].config,
            federation,
            runs,
            state,
            sweep.stop,
            next_rounds=_next_rounds,
            step=lambda state, completed, rounds: program(state, rounds),
        )
        with sweep.stop.deferred():
            for pause in pauses:
                state = pause.state
                latest = zip(numbers, pause.latest, strict=True)
                sweep.grid.update({number: rows[-1] for number, rows in latest})
                show(numbers)
                checkpoints.save(state, records, now=pause.signal > 0)
                if pause.signal:
                    _stop(sweep, pause.signal)

        # Models and summaries.
        layers = flops.layers_of(federation, program.shapes.variables)
        ended = zip(group, runs, program.finished(state), strict=True)
        for trial, run, final in ended:
            finish.write(
                directory.config(trial),
                _with_algorithm(federation, trial),
                run.directory,
                final,
                run.records,
                layers=layers,
            )
        checkpoints.remove()
    sweep.grid.finish(numbers)
    show(numbers)
    with sweep.in_common():
        directory.write_table(sweep.trials)


def _begin(
    directory: SweepDirectory,
    federation: Federation,
    group: Sequence[Trial],
    records: Sequence[list[Record]],
) -> list[loop.Run]:
    """Makes run directories what the checkpoint of their group has reached."""
    dataset, runs = federation.dataset, list[loop.Run]()
    parts, installed = partitions(group, dataset), versions()
    for trial, rows in zip(group, records, strict=True):
        config, run = directory.config(trial), directory.run(trial)
        new = resume.from_round_1(
            config,
            resume.fingerprint_of_start(federation),
            versions=installed,
            name=random_name(),
        )
        run.carry_out(dataclasses.replace(new, records=rows))
        divided = parts[trial.config.seed]
        run.write_partition(dataset.train.y, divided, origin(config, dataset))
        spent = privacy.spent(federation.options(config))
        runs.append(loop.Run(directory=run, records=rows, epsilons=spent))
    return runs


def _stop(sweep: _Sweep, signal: int) -> NoReturn:
    """Raises `Stopped` with how much of the sweep is finished."""
    number = sum(sweep.directory.summary(trial) is not None for trial in sweep.trials)
    reached = f"{number} of {len(sweep.trials)} runs finished"
    raise Stopped(signal, sweep.directory.path, reached)


def _checkpoints(
    path: Path, federation: Federation, state: State, group: Sequence[Trial]
) -> GroupCheckpoints:
    """Returns a group's; other trials, data or numbers of devices have others."""
    keys = [key for trial in group for key in Keys.from_seed(trial.config.seed)]
    side_by_side = jax.tree.leaves(state.variables)[0].shape[0]
    decisive = [
        [compared(to_json(trial.config)) for trial in group],
        resume.fingerprints(federation, keys),
        side_by_side,
    ]
    return GroupCheckpoints(path, decisive)

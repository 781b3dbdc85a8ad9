"""``fedsparsify train``: one run, from its options to its summary."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.runner import finish, loop, messages
from fedsparsify_jax.runner.display import beginning, loggers, summary
from fedsparsify_jax.runner.display.progress import duration, reporter
from fedsparsify_jax.runner.display.summary import Record
from fedsparsify_jax.runner.history import History, history
from fedsparsify_jax.runner.options import privacy
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import to_json
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.process import compilation_cache, distributed
from fedsparsify_jax.runner.process.signals import Stop, Stopped, catching
from fedsparsify_jax.runner.programs import devices
from fedsparsify_jax.runner.programs.federation import Federation, Keys, assemble
from fedsparsify_jax.runner.programs.natural import origin
from fedsparsify_jax.runner.programs.program import Report, RoundProgram, Rounds
from fedsparsify_jax.runner.programs.sources import DataSource, InMemory, OnDisk, Read
from fedsparsify_jax.runner.storage import resume, run_directory
from fedsparsify_jax.runner.storage.checkpoints import Checkpoints
from fedsparsify_jax.runner.storage.lock import locked, refuse_if_locked
from fedsparsify_jax.runner.storage.run_directory import (
    RunDirectory,
    check_name,
    default_path,
)
from fedsparsify_jax.types import RoundInfo, State, nothing_more


def train(config: TrainConfig, console: Console | None = None) -> dict[str, Any]:
    """Trains a federation and writes its run directory.

    Options, data and directory are checked, and what to do with the directory is
    decided, before the first file is written.

    Args:
      config: the options; unresolved defaults are filled in.
      console: where progress goes; standard output by default.

    Returns:
      The content of ``summary.json``; of several processes, in the first one.

    Raises:
      InputError: one line that says what is wrong and what to do.
      Stopped: a `KeyboardInterrupt`, after SIGTERM or SIGINT and saving; `signals` says
        what these do when.
    """
    config = resolve(config)
    if config.encrypted:
        raise InputError(
            "--encrypted is for fedsparsify_jax.federate.simulated.train, which has "
            "clients, server and key holder"
        )
    loggers.check(config.logger)
    config = dataclasses.replace(config, out=config.out or default_path(config))
    assert config.out is not None
    check_name(config.out)
    with catching() as stop:
        try:
            return _train(config, console, stop)
        except Stopped as stopped:
            stopped.out = config.out
            raise


def _train(config: TrainConfig, console: Console | None, stop: Stop) -> dict[str, Any]:
    """Trains with everything settled that can be before JAX is used."""
    assert config.out is not None
    # Refuse what can be refused without data, and then with them.
    measure = messages.meter(config)
    distributed.join(config.coordinator, config.num_processes, config.process_id)
    selected = devices.select(config.devices)
    console = console or Console(highlight=False, quiet=not distributed.is_first())
    directory = RunDirectory(config.out)
    distributed.first_decides(lambda: refuse_if_locked(directory.path))
    _planned(config)
    compilation_cache.enable(config.compilation_cache)
    federation = assemble(config, selected)
    keys = Keys.from_seed(config.seed)
    fingerprints = resume.fingerprints(federation, keys)
    in_memory = config.client_data == "memory"
    source: DataSource = (
        InMemory(federation) if in_memory else OnDisk(federation, keys.rounds)
    )
    return carried_out(
        Work(
            config=config,
            federation=federation,
            keys=keys,
            directory=directory,
            fingerprints=fingerprints,
            source=source,
            program=RoundProgram(federation, source, keys.rounds),
            measure=measure,
        ),
        console,
        stop,
    )


class Work(NamedTuple):
    """A run that is settled, before its first file is written."""

    config: TrainConfig  # resolved, with `out`
    federation: Federation
    keys: Keys
    directory: RunDirectory
    fingerprints: resume.Fingerprints
    source: DataSource
    program: Rounds
    measure: messages.MeasureFn | None


def carried_out(work: Work, console: Console, stop: Stop) -> dict[str, Any]:
    """Runs the rounds that are left, and writes all files of the run.

    Args:
      work: the run.
      console: where progress goes.
      stop: what may ask for an end.

    Returns:
      The summary; of several processes, in the first one.

    Raises:
      InputError: for a directory that is used otherwise by now, or cannot be written.
      Stopped: after a signal and saving.
    """
    config, federation, program = work.config, work.federation, work.program
    keys, directory, source = work.keys, work.directory, work.source
    plan = _planned(config, work.fingerprints)
    for line in beginning.described(config, federation):
        console.print(line, soft_wrap=True)

    # Compile the program of the first call, with the state of round 0.
    state = federation.algorithm.init(keys.state, federation.model.init(keys.model))
    state = federation.placement.put_state(state)
    past = history(config, federation, directory, source.clients)
    if plan.completed < (config.rounds or 0):
        program.compile(state, _until_evaluation(config, plan.completed))
    if config.verbose:
        console.print(f"compiled in {duration(program.compile_seconds)}")

    # Plan again, as nobody else can write any more; write, and run the rounds.
    with contextlib.ExitStack() as stack:
        distributed.first_decides(lambda: stack.enter_context(locked(directory.path)))
        plan = _planned(config, work.fingerprints)
        _begin(config, plan, directory, federation, console)
        run = loop.Run(
            directory=directory,
            records=list(plan.records),
            epsilons=privacy.spent(federation.options(config)),
        )
        state = _run(work, run, plan, state, console, stop, past)
        state = _post_trained(federation, keys, source, state, console)
        if not distributed.is_first():
            return {}
        more = past.summary(state) if past else {}
        result = finish.write(config, federation, directory, state, run.records, more)
    summary.display(console, result, str(config.out))
    if config.verbose:
        traces = counted(program.traces, "trace")
        programs = counted(program.programs, "compilation")
        console.print(f"round step: {traces}, {programs}")
    return result


def _post_trained(
    federation: Federation,
    keys: Keys,
    source: DataSource,
    state: State,
    console: Console,
) -> State:
    """Returns the state after what the algorithm does at the end, on the host."""
    if federation.algorithm.finish is not nothing_more:
        console.print("post-training")
    key = federation.placement.repeat(keys.of_finish())
    state = federation.algorithm.finish(key, state, source.clients)
    host: State = distributed.to_host(state)
    return host


def _planned(
    config: TrainConfig, fingerprints: resume.Fingerprints | None = None
) -> resume.Plan:
    """Returns the plan for the run directory as it is now.

    The first process reads and decides; the others learn where to go on, and refuse
    together with it.
    """
    plans: list[resume.Plan] = []

    def decide() -> int:
        assert config.out is not None
        plans.append(run_directory.plan(config.out, config, fingerprints))
        return plans[0].completed

    completed = distributed.first_decides(decide)
    return plans[0] if plans else resume.Plan(completed)


def _until_evaluation(config: TrainConfig, completed: int) -> int:
    """Returns the number of rounds up to the next evaluated one, 0 after the last.

    >>> config = TrainConfig(rounds=25, evaluate_every=10)
    >>> [_until_evaluation(config, completed) for completed in (0, 12, 20, 25)]
    [10, 8, 5, 0]
    """
    every = config.evaluate_every
    return min(config.rounds or 0, (completed // every + 1) * every) - completed


def _run(
    work: Work,
    run: loop.Run,
    plan: resume.Plan,
    state: State,
    console: Console,
    stop: Stop,
    past: History | None,
) -> State:
    """Runs the rounds that are left, and shows, logs and saves their results."""
    config, federation, program = work.config, work.federation, work.program
    source, measure = work.source, work.measure
    total, directory = config.rounds or 0, run.directory
    names, options = config.logger if distributed.is_first() else (), to_json(config)

    def next_rounds(state: State, completed: int, seconds: float) -> int:
        rounds = _until_evaluation(config, completed)
        program.prepare(state, rounds, completed)
        return rounds

    with (
        source.reading(directory.clients) as read,
        Checkpoints(
            directory.checkpoints,
            plan.content,
            keep_last=config.keep_last,
            keep_best=config.keep_best,
            higher_is_better=federation.task.higher_is_better,
        ) as checkpoints,
    ):
        if plan.completed:
            state = _restored(plan.completed, state, checkpoints, measure)
            if past is not None:
                past.restore(plan.completed)
        pauses = loop.rounds(
            config,
            federation,
            [run],
            state,
            stop,
            next_rounds=next_rounds,
            step=_stepping(config, program, read, past),
            measure=_both(measure, past),
        )
        with (
            stop.deferred(),
            reporter(console, total, plan.completed) as show,
            loggers.logging(
                names, directory.path, options, run.records, console
            ) as log,
        ):
            for pause in pauses:
                state = pause.state
                for record in pause.latest[0]:
                    show(record)
                    log(record)
                _save(config, federation.task.metric, pause, run, checkpoints, measure)
    return state


def _stepping(
    config: TrainConfig, program: Rounds, read: Read, past: History | None
) -> Callable[[State, int, int], tuple[State, list[list[Report]]]]:
    """Builds the call of the program."""

    def step(
        state: State, completed: int, rounds: int
    ) -> tuple[State, list[list[Report]]]:
        following = _until_evaluation(config, completed + rounds)
        state, reports = program(state, rounds, read(completed, rounds, following))
        if past is not None:
            past.next(completed + rounds, state)
        return state, [reports]

    return step


def _both(
    measure: messages.MeasureFn | None, past: History | None
) -> Callable[[RoundInfo], Record] | None:
    """Returns what records of a round whatever either does; None for neither."""
    every = [part for part in (measure, past) if part is not None]
    if not every:
        return None
    return lambda info: {k: v for part in every for k, v in part(info).items()}


def _restored(
    completed: int,
    state: State,
    checkpoints: Checkpoints,
    measure: messages.MeasureFn | None,
) -> State:
    """Returns the state after so many rounds, and tells the meter what was known."""
    state = checkpoints.restore(completed, state)
    if measure is not None:
        measure.restore(checkpoints.messages(completed), state.masks)
    return state


def _save(
    config: TrainConfig,
    metric: str,
    pause: loop.Pause,
    run: loop.Run,
    checkpoints: Checkpoints,
    measure: messages.MeasureFn | None,
) -> None:
    """Saves a checkpoint if one is due, or if this is the end; raises at a signal."""
    completed, every = pause.completed, config.checkpoint_every
    due = completed // every > (completed - len(pause.latest[0])) // every
    if due or completed == config.rounds or pause.signal:
        judge = "validation" if config.validation_fraction else "test"
        value = run.records[-1][f"{judge}_{metric}"]
        known = None if measure is None else measure.saved()
        checkpoints.save(completed, pause.state, run.records, value, known)
    checkpoints.wait(only_if_done=not pause.signal)
    if pause.signal:
        raise Stopped(pause.signal, run.directory.path, f"after round {completed}")


def _begin(
    config: TrainConfig,
    plan: resume.Plan,
    directory: RunDirectory,
    federation: Federation,
    console: Console,
) -> None:
    """Writes the first files, and says from where the run goes on."""

    def write() -> None:
        directory.carry_out(plan)
        targets = federation.dataset.train.y
        directory.write_partition(
            targets if federation.seen else np.zeros(0),
            federation.parts,
            origin(config, federation.dataset),
        )

    distributed.first_decides(write)
    for warning in plan.warnings:
        console.print(f"note: {warning}", soft_wrap=True)
    if plan.completed:
        console.print(f"resuming after round {plan.completed}")

"""``fedsparsify train``: one run, from its options to its summary."""

import contextlib
import dataclasses
from typing import Any

import jax
from rich.console import Console

from fedsparsify_jax import data
from fedsparsify_jax.runner import finish, loop
from fedsparsify_jax.runner.display import loggers, summary
from fedsparsify_jax.runner.display.progress import counted, duration, reporter
from fedsparsify_jax.runner.display.summary import Record
from fedsparsify_jax.runner.options.config import TrainConfig, to_json
from fedsparsify_jax.runner.options.registry import unused
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.rules import flag
from fedsparsify_jax.runner.process import compilation_cache, distributed
from fedsparsify_jax.runner.process.signals import Stop, Stopped, catching
from fedsparsify_jax.runner.programs import devices
from fedsparsify_jax.runner.programs.federation import Federation, Keys, assemble
from fedsparsify_jax.runner.programs.program import Report, RoundProgram
from fedsparsify_jax.runner.programs.sources import (
    DataSource,
    InMemory,
    OnDisk,
)
from fedsparsify_jax.runner.storage.checkpoints import Checkpoints
from fedsparsify_jax.runner.storage.fingerprints import Fingerprints, fingerprints
from fedsparsify_jax.runner.storage.partition_file import describe_partition
from fedsparsify_jax.runner.storage.run_directory import RunDirectory, default_path
from fedsparsify_jax.types import State


def train(config: TrainConfig, console: Console | None = None) -> dict[str, Any]:
    """Trains a federation and writes its run directory.

    Everything that can be wrong with the options, the data or the directory is checked
    before the first file is written.

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
    loggers.check(config.logger)
    config = dataclasses.replace(config, out=config.out or default_path(config))
    with catching() as signal:
        try:
            return _train(config, console, signal)
        except Stopped as stopped:
            stopped.out = config.out
            raise


def _train(
    config: TrainConfig, console: Console | None, signal: Stop
) -> dict[str, Any]:
    """Trains with everything settled that can be before JAX is used."""
    assert config.out is not None
    # Everything that can be wrong, before the first file is written.
    distributed.join(config.coordinator, config.num_processes, config.process_id)
    selected = devices.select(config.devices)
    console = console or Console(highlight=False, quiet=not distributed.is_first())
    directory = RunDirectory(config.out, config)
    distributed.first_decides(lambda: directory.check(resume=config.resume))
    compilation_cache.enable(config.compilation_cache)
    federation = assemble(config, selected)
    keys = Keys.from_seed(config.seed)
    digests = fingerprints(federation, keys)
    distributed.first_decides(lambda: directory.refuse_other_data(digests))
    _describe(console, config, federation)

    # The state of round 0, and the program of the first call.
    algorithm, placement = federation.algorithm, federation.placement
    state = algorithm.init(keys.state, federation.model.init(keys.model))
    state = placement.put_state(state)
    in_memory = config.client_data == "memory"
    source: DataSource = (
        InMemory(federation) if in_memory else OnDisk(federation, keys.rounds)
    )
    program = RoundProgram(federation, source, keys.rounds)
    program.compile(state, _until_evaluation(config, 0))
    if config.verbose:
        console.print(f"compiled in {duration(program.compile_seconds)}")

    # The rounds, and what comes after the last.
    with contextlib.ExitStack() as stack:
        distributed.first_decides(lambda: stack.enter_context(directory.held()))
        completed, run = _begin(config, federation, directory, digests, console)
        state = _run(
            config, federation, source, program, run, completed, state, console, signal
        )
        key = placement.repeat(keys.of_finish())
        state = distributed.to_host(algorithm.finish(key, state, source.clients))
        if not distributed.is_first():
            return {}
        result = finish.write(config, federation, directory, state, run.records)
    summary.display(console, result, str(config.out))
    if config.verbose:
        traces = counted(program.traces, "trace")
        programs = counted(program.programs, "compilation")
        console.print(f"round step: {traces}, {programs}")
    return result


def _until_evaluation(config: TrainConfig, completed: int) -> int:
    """Returns the number of rounds up to the next evaluated one, 0 after the last.

    >>> config = TrainConfig(rounds=25, evaluate_every=10)
    >>> [_until_evaluation(config, completed) for completed in (0, 12, 20, 25)]
    [10, 8, 5, 0]
    """
    every = config.evaluate_every
    return min(config.rounds or 0, (completed // every + 1) * every) - completed


def _run(
    config: TrainConfig,
    federation: Federation,
    source: DataSource,
    program: RoundProgram,
    run: loop.Run,
    completed: int,
    state: State,
    console: Console,
    signal: Stop,
) -> State:
    """Runs the rounds that are left, and shows, logs and saves what they give."""
    total, directory = config.rounds or 0, run.directory
    names, options = config.logger if distributed.is_first() else (), to_json(config)
    with (
        source.reading(directory.clients) as read,
        Checkpoints(
            directory.checkpoints,
            directory.content,
            keep_last=config.keep_last,
            keep_best=config.keep_best,
            higher_is_better=federation.task.higher_is_better,
        ) as checkpoints,
    ):
        if completed:
            state = checkpoints.restore(completed, state)

        def plan(state: State, completed: int, seconds: float) -> int:
            rounds = _until_evaluation(config, completed)
            program.prepare(state, rounds, total - completed)
            return rounds

        def step(
            state: State, completed: int, rounds: int
        ) -> tuple[State, list[list[Report]]]:
            following = _until_evaluation(config, completed + rounds)
            state, reports = program(state, rounds, read(completed, rounds, following))
            return state, [reports]

        pauses = loop.rounds(
            config, federation, [run], state, signal, plan=plan, step=step
        )
        with (
            signal.gentle(),
            reporter(console, total, completed) as show,
            loggers.logging(
                names, directory.path, options, run.records, console
            ) as log,
        ):
            for pause in pauses:
                state = pause.state
                for record in pause.latest[0]:
                    show(record)
                    log(record)
                _save(config, federation.task.metric, pause, run, checkpoints)
    return state


def _save(
    config: TrainConfig,
    metric: str,
    pause: loop.Pause,
    run: loop.Run,
    checkpoints: Checkpoints,
) -> None:
    """Saves a checkpoint if one is due, or if this is the end; raises at a signal."""
    completed, every = pause.completed, config.checkpoint_every
    due = completed // every > (completed - len(pause.latest[0])) // every
    if due or completed == config.rounds or pause.signal:
        judge = "validation" if config.validation_fraction else "test"
        value = run.records[-1][f"{judge}_{metric}"]
        checkpoints.save(completed, pause.state, run.records, value)
    checkpoints.wait(only_if_done=not pause.signal)
    if pause.signal:
        raise Stopped(pause.signal, run.directory.path, f"after round {completed}")


def _begin(
    config: TrainConfig,
    federation: Federation,
    directory: RunDirectory,
    digests: Fingerprints,
    console: Console,
) -> tuple[int, loop.Run]:
    """Writes the first files.

    Returns:
      The rounds that a checkpoint has seen, and the run; its records are those of these
      rounds, but there are none except in the first process.
    """
    records: list[Record] = []

    def begin() -> int:
        saved = directory.begin(
            digests, resume=config.resume, rounds=config.rounds or 0
        )
        records.extend(saved.records if saved else [])
        return saved.round if saved else 0

    completed = distributed.first_decides(begin)
    for note in directory.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if completed:
        console.print(f"resuming after round {completed}")
    if distributed.is_first():
        content = describe_partition(federation.dataset.train.y, federation.parts)
        directory.write_partition(content)
    return completed, loop.Run(directory, records)


def _describe(console: Console, config: TrainConfig, federation: Federation) -> None:
    """Prints what is going to be trained, before anything is."""
    sizes = [len(part) for part in federation.parts]
    lines: list[Any] = [
        f"{config.algorithm} on {config.dataset}: {config.num_clients} clients of "
        f"{min(sizes):,} to {max(sizes):,} examples, {config.partition} partition, "
        f"{config.rounds} rounds"
    ]
    untouched = dataclasses.asdict(resolve(TrainConfig(dataset=config.dataset)))
    lines += [
        f"note: {config.algorithm} has no use for {flag(field)}"
        for field in unused(dataclasses.asdict(config), untouched)
    ]
    if federation.compact and federation.compact.note:
        lines.append(f"note: clients train in full: {federation.compact.note}")
    if config.show_partition:
        lines.append(data.class_table(federation.dataset.train.y, federation.parts))
    if config.verbose:
        names = ", ".join(map(str, federation.placement.mesh.devices.flat))
        lines.append(f"jax {jax.__version__} on {names}")
    for line in lines:
        console.print(line, soft_wrap=True)

"""The training loop: one compiled program, called once an evaluation."""

import contextlib
import dataclasses
import time
from typing import Any

import jax
import numpy as np
from rich.console import Console

from fedsparsify_jax import data
from fedsparsify_jax.metrics.communication import dense_bytes
from fedsparsify_jax.runner import finish
from fedsparsify_jax.runner.display import loggers
from fedsparsify_jax.runner.display.progress import duration, reporter
from fedsparsify_jax.runner.display.records import Record, round_record
from fedsparsify_jax.runner.display.summary import show
from fedsparsify_jax.runner.options.config import TrainConfig, option, to_json
from fedsparsify_jax.runner.options.registry import unused
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.process import compilation_cache, distributed
from fedsparsify_jax.runner.process.signals import Stop, Stopped, catching
from fedsparsify_jax.runner.programs.devices import choose
from fedsparsify_jax.runner.programs.federation import Federation, assemble
from fedsparsify_jax.runner.programs.from_disk import DiskProgram
from fedsparsify_jax.runner.programs.keys import Keys
from fedsparsify_jax.runner.programs.program import RoundProgram
from fedsparsify_jax.runner.storage.checkpoints import Checkpoints
from fedsparsify_jax.runner.storage.fingerprints import Fingerprints, fingerprints
from fedsparsify_jax.runner.storage.partition_file import describe_partition
from fedsparsify_jax.runner.storage.run_directory import RunDirectory, default_path
from fedsparsify_jax.types import State


def _next_stop(completed: int, total: int, every: int) -> int:
    """The round that is evaluated next: a multiple of ``every``, or the last.

    >>> _next_stop(0, 25, 10), _next_stop(10, 25, 10), _next_stop(20, 25, 10)
    (10, 20, 25)
    """
    return min(total, (completed // every + 1) * every)


def _stop(config: TrainConfig, completed: int) -> int:
    """`_next_stop` of a run; where it is, after its end."""
    assert config.rounds is not None
    return _next_stop(completed, config.rounds, config.evaluate_every)


def _program(config: TrainConfig, federation: Federation, keys: Keys) -> RoundProgram:
    if config.client_data == "memory":
        return RoundProgram(federation, federation.placement, keys.rounds)
    return DiskProgram(
        federation,
        federation.placement,
        keys.rounds,
        participation=config.participation,
        stop=lambda completed: _stop(config, completed),
    )


def _loop(
    config: TrainConfig,
    program: RoundProgram,
    metric: str,
    state: State,
    records: list[Record],
    directory: RunDirectory,
    checkpoints: Checkpoints,
    console: Console,
    signal: Stop,
) -> State:
    """Plays the rounds that are left, and adds their records to ``records``."""
    total, completed = config.rounds, int(state.round)
    assert total is not None
    dense = dense_bytes(state.variables)
    named = config.logger if distributed.is_first() else ()
    with (
        signal.gentle(),
        reporter(console, total, completed) as progress,
        loggers.logging(
            named, directory.path, to_json(config), records, console
        ) as log,
    ):
        while completed < total:
            stop = _stop(config, completed)
            program.look(state, total - completed)
            program.compile(state, stop - completed)
            start = time.perf_counter()
            state, infos, evaluations = program(state, stop - completed)
            infos, evaluations = jax.device_get((infos, evaluations))
            seconds = (time.perf_counter() - start) / (stop - completed)
            for index in range(stop - completed):
                info = jax.tree.map(lambda leaf, index=index: leaf[index], infos)
                due = completed + index + 1 == stop
                record = round_record(
                    info, evaluations, metric, dense, seconds, due=due
                )
                if distributed.is_first():
                    directory.append(record)
                records.append(record)
                progress.round(record)
                log(record)
            due = stop // config.checkpoint_every > completed // config.checkpoint_every
            completed = stop
            ended = distributed.largest(signal.number)
            if due or completed == total or ended:
                judge = "validation" if config.validation_fraction else "test"
                value = records[-1][f"{judge}_{metric}"]
                checkpoints.save(completed, state, records, value)
            checkpoints.wait(only_if_done=not ended)
            if ended:
                raise Stopped(ended, directory.path, f"after round {completed}")
    return state


def _describe(console: Console, config: TrainConfig, federation: Federation) -> None:
    counts = np.array([len(part) for part in federation.parts])
    console.print(
        f"{config.algorithm} on {config.dataset}: {config.num_clients} clients of "
        f"{counts.min():,} to {counts.max():,} examples, {config.partition} partition, "
        f"{config.rounds} rounds",
        soft_wrap=True,
    )
    untouched = dataclasses.asdict(resolve(TrainConfig(dataset=config.dataset)))
    for field in unused(dataclasses.asdict(config), untouched):
        console.print(
            f"note: {config.algorithm} has no use for {option(field)}", soft_wrap=True
        )
    if federation.sparse and federation.sparse.note:
        console.print(
            f"note: clients train in full: {federation.sparse.note}", soft_wrap=True
        )
    if config.show_partition:
        table = data.class_table(federation.dataset.train.y, federation.parts)
        console.print(table, soft_wrap=True)
    if config.verbose:
        mesh = federation.placement.mesh
        devices = ", ".join(map(str, mesh.devices.flat))
        console.print(f"jax {jax.__version__} on {devices}", soft_wrap=True)


def _counted(program: RoundProgram) -> str:
    """How often the round was traced and compiled, for people."""
    traces, programs = program.traces, program.programs
    return (
        f"round step: {traces} trace{'s' * (traces != 1)}, "
        f"{programs} compilation{'s' * (programs != 1)}"
    )


def train(config: TrainConfig, console: Console | None = None) -> dict[str, Any]:
    """Runs a whole federation and writes its run directory.

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
    """`train` with everything settled that can be before JAX is used."""
    assert config.out is not None
    distributed.join(config.coordinator, config.num_processes, config.process_id)
    devices = choose(config.devices)
    console = console or Console(highlight=False, quiet=not distributed.is_first())
    directory = RunDirectory(config.out, config)
    distributed.first_decides(lambda: directory.check(resume=config.resume))
    compilation_cache.enable(config.compilation_cache)
    federation = assemble(config, devices)
    keys = Keys.from_seed(config.seed)
    prints = fingerprints(federation, keys)
    distributed.first_decides(lambda: directory.refuse_other_data(prints))
    _describe(console, config, federation)

    algorithm, placement = federation.algorithm, federation.placement
    state = algorithm.init(keys.state, federation.model.init(keys.model))
    state = placement.put_state(state)
    program = _program(config, federation, keys)
    program.compile(state, _stop(config, 0))
    if config.verbose:
        console.print(f"compiled in {duration(program.compile_seconds)}")

    with contextlib.ExitStack() as stack:
        distributed.first_decides(lambda: stack.enter_context(directory.held()))
        completed, records = _begin(config, directory, prints, console)
        if distributed.is_first():
            said = describe_partition(federation.dataset.train.y, federation.parts)
            directory.write_partition(said)
        stack.enter_context(program.reading(directory.clients))
        checkpoints = stack.enter_context(_checkpoints(config, directory, federation))
        if completed:
            state = checkpoints.restore(completed, state)
        state = _loop(
            config,
            program,
            federation.task.metric,
            state,
            records,
            directory,
            checkpoints,
            console,
            signal,
        )
        checkpoints.wait()
        key = placement.repeat(keys.of_finish())
        state = distributed.to_host(algorithm.finish(key, state, program.clients))
        if not distributed.is_first():
            return {}
        summary = finish.write(config, federation, directory, state, records)
    show(console, summary, str(config.out))
    if config.verbose:
        console.print(_counted(program))
    return summary


def _begin(
    config: TrainConfig,
    directory: RunDirectory,
    prints: Fingerprints,
    console: Console,
) -> tuple[int, list[Record]]:
    """The rounds that a checkpoint has seen, and, in the first process, their records.

    Writes the first files.
    """
    records: list[Record] = []

    def begin() -> int:
        assert config.rounds is not None
        found = directory.begin(prints, resume=config.resume, rounds=config.rounds)
        records.extend(found.records if found else [])
        return found.round if found else 0

    completed = distributed.first_decides(begin)
    for note in directory.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if completed:
        console.print(f"resuming after round {completed}")
    return completed, records


def _checkpoints(
    config: TrainConfig, directory: RunDirectory, federation: Federation
) -> Checkpoints:
    return Checkpoints(
        directory.checkpoints,
        directory.content,
        keep_last=config.keep_last,
        keep_best=config.keep_best,
        higher_is_better=federation.task.higher_is_better,
    )

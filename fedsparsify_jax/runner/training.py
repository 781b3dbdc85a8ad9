"""The training loop: one compiled program, called once an evaluation."""

import dataclasses
import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from fedsparsify_jax import data, masks, trees
from fedsparsify_jax.metrics import (
    Evaluation,
    inference_flops,
    layer_flops,
    training_flops,
)
from fedsparsify_jax.metrics.communication import dense_bytes
from fedsparsify_jax.runner import distributed, loggers
from fedsparsify_jax.runner.checkpoints import Checkpoints
from fedsparsify_jax.runner.checks import resolve
from fedsparsify_jax.runner.compilation_cache import use
from fedsparsify_jax.runner.config import TrainConfig, option, to_json
from fedsparsify_jax.runner.devices import choose
from fedsparsify_jax.runner.disk_program import DiskProgram
from fedsparsify_jax.runner.federation import Federation, assemble
from fedsparsify_jax.runner.methods import prunable, unused
from fedsparsify_jax.runner.model_files import save_model
from fedsparsify_jax.runner.partition_file import describe_partition
from fedsparsify_jax.runner.program import RoundProgram
from fedsparsify_jax.runner.progress import duration, reporter
from fedsparsify_jax.runner.run_directory import RunDirectory, default_path
from fedsparsify_jax.runner.summary import show, summarize
from fedsparsify_jax.types import Key, RoundInfo, State

Record = dict[str, Any]


class Keys(NamedTuple):
    """The run's sources of randomness, all from its seed."""

    model: Key
    state: Key
    rounds: Key

    @classmethod
    def from_seed(cls, seed: int) -> "Keys":
        """Keys that depend on the seed alone."""
        return cls(*jax.random.split(jax.random.key(seed), 3))

    def of_finish(self) -> Key:
        """The key of what comes after the last round."""
        return jax.random.fold_in(self.rounds, 0)


def _number(value: Any) -> float | None:
    """A float32 as the shortest decimal that gives it back; None if not finite."""
    number = float(str(np.float32(value)))
    return number if math.isfinite(number) else None


def round_record(
    info: RoundInfo,
    evaluation: Evaluation | None,
    metric: str,
    dense: int,
    seconds: float,
) -> Record:
    """One line of ``metrics.jsonl``; without an evaluation its values are null."""
    return {
        "round": int(info.round),
        f"test_{metric}": _number(evaluation.metric) if evaluation else None,
        "test_loss": _number(evaluation.loss) if evaluation else None,
        "train_loss": _number(info.loss),
        "sparsity": _number(info.sparsity),
        "target_sparsity": _number(info.target_sparsity),
        # Summed on the host: a large cohort's bytes exceed 32 bit.
        "bytes_up": int(np.sum(info.bytes_up, dtype=np.int64)),
        "bytes_down": int(np.sum(info.bytes_down, dtype=np.int64)),
        "bytes_dense": 2 * len(info.cohort) * dense,
        "kept": {name: int(count) for name, count in info.kept.items()},
        "seconds": round(seconds, 6),
    }


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
    directory: RunDirectory,
    checkpoints: Checkpoints,
    console: Console,
) -> tuple[State, list[Record]]:
    """Plays the rounds that are left; returns all rounds' records."""
    total, completed = config.rounds, int(state.round)
    assert total is not None
    dense = dense_bytes(state.variables)
    records: list[Record] = []
    distributed.first_decides(lambda: records.extend(directory.rewind(completed)))
    named = config.logger if distributed.is_first() else ()
    with (
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
            state, infos, evaluation = program(state, stop - completed)
            infos, evaluation = jax.device_get((infos, evaluation))
            seconds = (time.perf_counter() - start) / (stop - completed)
            for index in range(stop - completed):
                info = jax.tree.map(lambda leaf, index=index: leaf[index], infos)
                seen = evaluation if completed + index + 1 == stop else None
                record = round_record(info, seen, metric, dense, seconds)
                if distributed.is_first():
                    directory.append(record)
                records.append(record)
                progress.round(record)
                log(record)
            due = stop // config.checkpoint_every > completed // config.checkpoint_every
            completed = stop
            if due or completed == total:
                checkpoints.save(completed, state)
    return state, records


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


def _model_description(
    config: TrainConfig, federation: Federation, summary: dict[str, Any]
) -> dict[str, Any]:
    dataset = federation.dataset
    return {
        "model": config.model,
        "input_shape": list(dataset.train.x.shape[1:]),
        "num_classes": dataset.num_classes,
        "normalization": dataclasses.asdict(dataset.normalization),
        "dataset": dataset.name,
        "algorithm": config.algorithm,
        f"test_{federation.task.metric}": summary[f"test_{federation.task.metric}"],
        "sparsity": summary["sparsity"],
    }


def _counted(program: RoundProgram) -> str:
    """How often the round was traced and compiled, for people."""
    traces, programs = program.traces, program.programs
    return (
        f"round step: {traces} trace{'s' * (traces != 1)}, "
        f"{programs} compilation{'s' * (programs != 1)}"
    )


def _flops(
    federation: Federation, state: State, kept: dict[str, int]
) -> dict[str, int]:
    """FLOPs of one example, dense and at the final masks."""
    x = federation.dataset.test.x[:1]
    try:
        layers = layer_flops(federation.model.apply, state.variables, x.shape, x.dtype)
    except ValueError:  # a loop of unknown length, say
        return {}
    return {
        "inference_flops_dense": inference_flops(layers),
        "inference_flops": inference_flops(layers, kept=kept),
        "training_flops_dense": training_flops(layers),
        "training_flops": training_flops(layers, kept=kept),
    }


def complete(
    config: TrainConfig,
    federation: Federation,
    directory: RunDirectory,
    state: State,
    records: list[Record],
) -> dict[str, Any]:
    """Writes the model and the summary of a run that is over; returns the summary.

    Args:
      config: resolved.
      federation: what was trained.
      directory: of the run.
      state: the last one, after post-training.
      records: of all rounds.
    """
    may_go = prunable(dataclasses.asdict(config))
    counted = masks.prunable_only(state.masks, may_go)
    summary = summarize(
        records,
        parameters=trees.size(counted),
        kept=int(trees.nonzeros(counted)),
        numbers=trees.size(state.variables),
    )
    summary |= _flops(federation, state, records[-1]["kept"])
    save_model(
        directory.model,
        federation.algorithm.model(state),
        _model_description(config, federation, summary),
    )
    directory.write_summary(summary)
    return summary


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
    """
    config = resolve(config)
    loggers.check(config.logger)
    distributed.join(config.coordinator, config.num_processes, config.process_id)
    devices = choose(config.devices)
    console = console or Console(highlight=False, quiet=not distributed.is_first())
    out = config.out or default_path(config)
    config = dataclasses.replace(config, out=out)
    directory = RunDirectory(out, config)
    resuming = bool(
        distributed.first_decides(lambda: directory.check(resume=config.resume))
    )
    use(config.compilation_cache)
    federation = assemble(config, devices)
    _describe(console, config, federation)

    keys = Keys.from_seed(config.seed)
    algorithm, placement = federation.algorithm, federation.placement
    state = algorithm.init(keys.state, federation.model.init(keys.model))
    state = placement.put_state(state)
    program = _program(config, federation, keys)
    program.compile(state, _stop(config, 0))
    if config.verbose:
        console.print(f"compiled in {duration(program.compile_seconds)}")

    distributed.first_decides(directory.claim)
    if distributed.is_first():
        said = describe_partition(federation.dataset.train.y, federation.parts)
        directory.write_partition(said)
    with (
        program.reading(directory.clients),
        Checkpoints(directory.checkpoints) as checkpoints,
    ):
        if resuming:
            state = checkpoints.restore(state) or state
            console.print(f"resuming after round {int(state.round)}")
        state, records = _loop(
            config,
            program,
            federation.task.metric,
            state,
            directory,
            checkpoints,
            console,
        )
    key = placement.repeat(keys.of_finish())
    state = distributed.to_host(algorithm.finish(key, state, program.clients))
    if not distributed.is_first():
        return {}

    summary = complete(config, federation, directory, state, records)
    show(console, summary, str(out))
    if config.verbose:
        console.print(_counted(program))
    return summary

"""A finished run, found again: its options, data, algorithm and model."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fedsparsify_jax.deploy import SavedModel
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.model_commands.source import (
    model_of_run,
    recorded_of,
    trained_with,
)
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.process import compilation_cache
from fedsparsify_jax.runner.programs import devices, linear_evaluation
from fedsparsify_jax.runner.programs.federation import Federation, Keys, assemble
from fedsparsify_jax.runner.storage import resume, run_directory
from fedsparsify_jax.runner.storage.checkpoints import Checkpoints
from fedsparsify_jax.types import State

_OF_DATA = ("data set", "partition", "initial model")
"""Fingerprints that decide who is a member of what."""


class Finished(NamedTuple):
    """A finished run with everything that an attack on it needs.

    Attributes:
      path: of its directory.
      config: its options.
      federation: its data, partition, network and algorithm.
      keys: of its seed.
      model: as it was saved.
      name: of the run, in its checkpoints.
      fingerprints: of its data.
      notes: sentences about what could not be checked.
    """

    path: Path
    config: TrainConfig
    federation: Federation
    keys: Keys
    model: SavedModel
    name: str
    fingerprints: Mapping[str, str]
    notes: tuple[str, ...] = ()


def finished(path: Path, data_dir: Path | None = None) -> Finished:
    """Finds a run again.

    Args:
      path: of its directory.
      data_dir: where its data are now, if they were moved.

    Raises:
      InputError: for a directory that is no finished run, data that are gone or have
        changed, or a run without labels.
    """
    model = model_of_run(path)
    recorded, config = recorded_of(path), trained_with(path)
    if linear_evaluation.wanted(config):
        raise InputError(
            f"the run {path} learnt without labels, and its last layer was fitted to "
            "all labels after the rounds: audit takes runs whose clients train the "
            "model as it is saved"
        )
    if data_dir is not None:
        config = dataclasses.replace(config, data_dir=data_dir)
    selected = devices.select(config.devices)
    compilation_cache.enable(config.compilation_cache)
    try:
        federation = assemble(config, selected)
    except InputError as error:
        raise InputError(
            f"the data of the run {path} cannot be loaded again: {error} (--data-dir "
            "says where they are now)"
        ) from error
    keys = Keys.from_seed(config.seed)
    before, now = (
        recorded.get("fingerprints", {}),
        resume.fingerprints(federation, keys),
    )
    return Finished(
        path=path,
        config=dataclasses.replace(config, num_clients=len(federation.parts)),
        federation=federation,
        keys=keys,
        model=model,
        name=str(recorded.get("run")),
        fingerprints=now,
        notes=_compared(path, before, now),
    )


def _compared(
    path: Path, before: Mapping[str, str], now: Mapping[str, str]
) -> tuple[str, ...]:
    """Refuses data that have changed; returns what cannot be compared."""
    changed = [n for n in _OF_DATA if n in before and before[n] != now.get(n)]
    if changed:
        raise InputError(
            f"the {' and the '.join(changed)} of the run {path} changed since it was "
            "trained, so nobody knows its members: bring back what it was trained on"
        )
    if "data set" in before:
        return ()
    return (
        "a run of a sweep keeps no fingerprints of its data: they are taken to be the "
        "same",
    )


def last_state(run: Finished) -> State:
    """Returns the state after the last round of a run, from its checkpoint.

    Raises:
      InputError: if there is no whole checkpoint of that round.
    """
    directory = run_directory.RunDirectory(run.path).checkpoints
    newest = run_directory.read(run.path).checkpoints.newest
    if newest is None or newest.round != run.config.rounds:
        raise InputError(
            f"the run {run.path} has no whole checkpoint of its last round, from which "
            "clients go on: fedsparsify train keeps one, a sweep removes them"
        )
    federation, keys = run.federation, run.keys
    first = federation.algorithm.init(keys.state, federation.model.init(keys.model))
    first = federation.placement.put_state(first)
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore(newest.round, first)

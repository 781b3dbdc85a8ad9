"""The plan of a start: begin a run, go on with one, or refuse.

`run_directory.read` says what is there, `plan` decides without reading or writing, and
`RunDirectory.carry_out` acts. Fingerprints let no changed data go unnoticed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedsparsify_jax import trees
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import NOT_COMPARED, having, to_json
from fedsparsify_jax.runner.options.registry import takes
from fedsparsify_jax.runner.options.rules import flag
from fedsparsify_jax.runner.options.schema import CHANGEABLE
from fedsparsify_jax.runner.programs.federation import Federation
from fedsparsify_jax.runner.storage.checkpoint_files import Inventory, Record
from fedsparsify_jax.runner.storage.manifest import own_digest

Change = tuple[Any, Any]
Fingerprints = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Existing:
    """The content of a run directory.

    Attributes:
      path: of the directory.
      checkpoints: those in it.
      obstacle: complaint if no run can be written there, "" if one can.
      empty: whether it is missing, or holds no more than a start that was killed
        before it wrote anything whole.
      recorded: content of ``config.json``, None if that is missing or damaged.
      metrics: bytes of ``metrics.jsonl``.
      summary: content of ``summary.json``, None unless the run is finished.
    """

    path: Path
    checkpoints: Inventory
    obstacle: str = ""
    empty: bool = False
    recorded: Mapping[str, Any] | None = None
    metrics: bytes = b""
    summary: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The writes that begin a run, or go on with one.

    Attributes:
      completed: rounds that need not be run again.
      content: of ``config.json``.
      records: of the completed rounds, all that ``metrics.jsonl`` is to hold.
      renames: of damaged checkpoints, old names to new ones.
      warnings: for people.
    """

    completed: int = 0
    content: dict[str, Any] = dataclasses.field(default_factory=dict)
    records: Sequence[Record] = ()
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def plan(
    existing: Existing,
    config: TrainConfig,
    fingerprints: Fingerprints | None = None,
    *,
    versions: Mapping[str, str],
    name: str,
) -> Plan:
    """Decides what a start does to a directory; touches nothing.

    Args:
      existing: content of the directory.
      config: resolved.
      fingerprints: of the data; unchecked if None, before the data are loaded.
      versions: of the packages that results depend on.
      name: of the run, should it be a new one.

    Raises:
      InputError: if the directory cannot be written, is used and not to be resumed,
        holds something else than a run, or a run with other options, other data or
        more rounds; if all checkpoints are damaged.
    """
    if existing.obstacle:
        raise InputError(existing.obstacle)
    if existing.empty:
        return from_round_1(config, fingerprints, versions=versions, name=name)
    if not config.resume:
        raise InputError(
            f"--out {existing.path} is not empty: add --resume to continue the run in "
            "it, or name another directory"
        )

    # Compare with the run that is there.
    saved = existing.checkpoints.newest_or_refuse()
    completed, records = (saved.round, saved.records) if saved else (0, [])
    recorded = _recorded(existing)
    changes = changed_options(recorded["options"], to_json(config))
    _refuse_options(existing.path, changes, config)
    if fingerprints is not None:
        _refuse_data(existing.path, recorded.get("fingerprints", {}), fingerprints)
    if completed > (config.rounds or 0):
        raise InputError(
            f"--rounds is {config.rounds}: the run in {existing.path} has completed "
            f"{completed}"
        )

    # Go on from its newest checkpoint.
    history = list(recorded.get("changes", []))
    if changes:
        history.append({"after_round": completed, "options": changes})
    name = recorded.get("run") or name
    return dataclasses.replace(
        from_round_1(config, fingerprints, history, versions=versions, name=name),
        completed=completed,
        records=records,
        renames=existing.checkpoints.renames(),
        warnings=tuple(_warnings(existing, changes, versions)),
    )


def from_round_1(
    config: TrainConfig,
    fingerprints: Fingerprints | None = None,
    changes: Sequence[Any] = (),
    *,
    versions: Mapping[str, str],
    name: str,
) -> Plan:
    """Returns the plan of a run without checkpoints; arguments are those of `plan`."""
    content = {
        "run": name,
        "options": to_json(config),
        "versions": versions,
        "fingerprints": fingerprints or {},
        "changes": list(changes),
    }
    return Plan(content=content | {"digest": own_digest(content)})


def _recorded(existing: Existing) -> Mapping[str, Any]:
    """Returns ``config.json``, or its copy in the newest checkpoint."""
    saved = existing.checkpoints.newest
    if existing.recorded is not None:
        return existing.recorded
    if saved is not None:
        return saved.config
    raise InputError(
        f"--out {existing.path} is not empty and holds no run to resume (no readable "
        "config.json): name another directory"
    )


def _warnings(
    existing: Existing, changes: Mapping[str, Change], versions: Mapping[str, str]
) -> Iterator[str]:
    """Yields the warnings of a run that goes on."""
    recorded, saved = _recorded(existing), existing.checkpoints.newest
    if existing.recorded is None and saved is not None:
        yield (
            f"config.json was damaged: taken from the checkpoint of round {saved.round}"
        )
    if changes:
        yield (
            f"changes allowed: {described(changes)}; this run is no longer the one "
            "that either value alone would give"
        )
    before = recorded.get("versions", {})
    other = ", ".join(
        f"{name} {before[name]} -> {version}"
        for name, version in versions.items()
        if before.get(name, version) != version
    )
    if other:
        yield f"other versions than so far: {other}; results may differ in last bits"
    renames = existing.checkpoints.renames()
    for number, why in existing.checkpoints.damaged.items():
        aside = renames[str(number)]
        yield f"the checkpoint of round {number} is damaged ({why}): kept as {aside}"
    if not existing.metrics.startswith(lines(saved.records if saved else []).encode()):
        yield "metrics.jsonl was damaged: taken from the checkpoint"


def lines(records: Iterable[Record]) -> str:
    """Returns records as the lines of ``metrics.jsonl``."""
    return "".join(json.dumps(record) + "\n" for record in records)


def changed_options(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Change]:
    """Returns the options that decide results and differ, each with both values.

    What an older version did not have counts as having its default.
    """
    usual = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    return {
        field: (before.get(field, usual[field]), value)
        for field, value in now.items()
        if field not in NOT_COMPARED and before.get(field, usual[field]) != value
    }


def described(changes: Mapping[str, Change]) -> str:
    """Returns changes of options for people.

    >>> described({"rounds": (50, 60), "seed": (0, 1)})
    '--rounds 50 -> 60; --seed 0 -> 1'
    """
    return "; ".join(f"{flag(f)} {old} -> {new}" for f, (old, new) in changes.items())


def _refuse_options(
    path: Path, changes: Mapping[str, Change], config: TrainConfig
) -> None:
    """Refuses changes that were not asked for, or would not work."""
    changeable, allow = set(having(CHANGEABLE)), config.allow_changes
    if takes(config.algorithm, "stages") and config.stages != 1:
        changeable.remove("rounds")  # by them the network has its present layers
    if config.dp_clip is not None:  # the accountant is of one sampling, and one noise
        changeable.remove("participation")
        if config.dp_unit == "example":  # which is used once in every epoch
            changeable -= {"local_epochs", "local_steps", "fine_tune_epochs"}
        if config.epsilon is not None:  # which rounds and epsilon give together
            changeable.discard("rounds")
    never = {field: both for field, both in changes.items() if field not in changeable}
    if never and allow:
        raise InputError(
            f"the run in {path} cannot go on with {described(never)}, not even with "
            "--allow-changes: resume with the same, or name another directory"
        )
    if changes and not allow:
        also = " (or add --allow-changes)" if not never else ""
        raise InputError(
            f"the run in {path} had other options: {described(changes)}; resume with "
            f"the same{also}, or name another directory"
        )


def _refuse_data(path: Path, before: Fingerprints, now: Fingerprints) -> None:
    """Refuses another data set, partition, or random numbers, by name."""
    other = [name for name, digest in before.items() if now.get(name) != digest]
    if other:
        raise InputError(
            f"the {' and the '.join(other)} of the run in {path} changed since it was "
            "started: bring back what it was started with, or name another directory"
        )


WHOLE = 2**30
"""Bytes of an array up to which all of it is read; of larger ones, evenly spread rows
that add up to so many."""

_PIECE = 2**24


def digest(arrays: Iterable[Any]) -> str:
    """Returns BLAKE2b of the dtypes, shapes and numbers of arrays, in order.

    Args:
      arrays: NumPy arrays ``[n, ...]`` of any dtype but objects; may be mapped from
        disk, and are read piece by piece.

    Example:
      >>> one = digest([np.arange(4)])
      >>> one == digest([np.arange(4)]), one == digest([np.arange(4).reshape(2, 2)])
      (True, False)
    """
    total = hashlib.blake2b(digest_size=16)
    for array in arrays:
        rows = np.asarray(array)
        total.update(f"{rows.dtype.str}{rows.shape}".encode())
        pieces = max(1, -(-rows.nbytes // _PIECE))
        every = max(1, -(-rows.nbytes // WHOLE))
        for piece in np.array_split(rows, pieces)[::every]:
            total.update(np.ascontiguousarray(piece).view(np.uint8).data)
    return total.hexdigest()


def fingerprints(federation: Federation, keys: Iterable[jax.Array]) -> Fingerprints:
    """Returns digests of what decides a run besides its options and its state.

    Args:
      federation: with its data.
      keys: the run's, which another version of JAX may draw otherwise.
    """
    dataset, parts = federation.dataset, federation.parts
    if federation.population is not None:
        divided = [federation.population.offsets]
    else:
        divided = [np.array([len(part) for part in parts]), np.concatenate(parts)]
    bits: Any = jax.random.key_data
    return {
        "data set": digest([*dataset.train, *dataset.test]),
        "partition": digest(divided),
        "random keys": digest(np.asarray(bits(key)) for key in keys),
        **fingerprint_of_start(federation),
    }


def fingerprint_of_start(federation: Federation) -> Fingerprints:
    """Returns the digest of the weights that ``--init`` names; none without that."""
    if federation.start is None:
        return {}
    leaves = (leaf for _, leaf in trees.named_leaves(federation.start.variables))
    return {"initial model": digest(leaves)}

"""Resuming a run that is not quite the same: what differs, and what is allowed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import NOT_COMPARED, TrainConfig, having
from fedsparsify_jax.runner.options.rules import flag
from fedsparsify_jax.runner.options.schema import CHANGEABLE
from fedsparsify_jax.runner.storage.fingerprints import Fingerprints

Change = tuple[Any, Any]


def changed_options(
    before: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Change]:
    """The options that decide results and differ, each with both values.

    What an older version did not have counts as having its default.
    """
    usual = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    return {
        field: (before.get(field, usual[field]), value)
        for field, value in now.items()
        if field not in NOT_COMPARED and before.get(field, usual[field]) != value
    }


def told(changes: Mapping[str, Change]) -> str:
    """Changes of options for people.

    >>> told({"rounds": (50, 60), "seed": (0, 1)})
    '--rounds 50 -> 60; --seed 0 -> 1'
    """
    return "; ".join(f"{flag(f)} {old} -> {new}" for f, (old, new) in changes.items())


def refuse_options(where: object, changes: Mapping[str, Change], allow: bool) -> None:
    """Complains of changes that were not asked for, or would not work.

    Raises:
      InputError: with a list of all of them.
    """
    changeable = having(CHANGEABLE)
    never = {field: both for field, both in changes.items() if field not in changeable}
    if never and allow:
        raise InputError(
            f"the run in {where} cannot go on with {told(never)}, not even with "
            "--allow-changes: resume with the same, or name another directory"
        )
    if changes and not allow:
        also = " (or add --allow-changes)" if not never else ""
        raise InputError(
            f"the run in {where} had other options: {told(changes)}; resume with the "
            f"same{also}, or name another directory"
        )


def refuse_data(where: object, before: Fingerprints, now: Fingerprints) -> None:
    """Complains of another data set, partition, or random numbers.

    Raises:
      InputError: naming what has changed.
    """
    other = [name for name, digest in before.items() if now.get(name) != digest]
    if other:
        raise InputError(
            f"the {' and the '.join(other)} of the run in {where} changed since it was "
            "started: bring back what it was started with, or name another directory"
        )


def versions_note(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Other versions of libraries than the run had so far; "" if there are none.

    >>> versions_note({"jax": "0.10.1", "numpy": "2.3"}, {"jax": "0.10.2"})
    'other versions than so far: jax 0.10.1 -> 0.10.2; results may differ in last bits'
    """
    differ = [
        f"{name} {before[name]} -> {version}"
        for name, version in now.items()
        if name in before and before[name] != version
    ]
    if not differ:
        return ""
    return (
        f"other versions than so far: {', '.join(differ)}; results may differ in last "
        "bits"
    )

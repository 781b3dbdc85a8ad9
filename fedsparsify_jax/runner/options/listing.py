"""Options of a run by their traits, and as JSON."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.runner.options import schema
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.schema import NEUTRAL, Trait


def having(trait: Trait) -> tuple[str, ...]:
    """Returns the names of the options that have a trait.

    >>> having(schema.WITH_COMMAS)[:4]
    ('data_dir', 'client_sizes', 'spare', 'faults')
    """
    options = schema.read(TrainConfig).items()
    return tuple(field for field, option in options if trait in option.traits)


NOT_COMPARED = having(NEUTRAL)
"""Options that do not change what is computed: free to differ on resume."""


def from_json(written: Mapping[str, Any], where: str) -> TrainConfig:
    """Returns the configuration that `to_json` wrote, each option checked.

    Args:
      written: its values.
      where: they are from, for errors.

    Raises:
      InputError: for an option that this version does not have, or a wrong value.
    """
    options = schema.read(TrainConfig)
    unknown = sorted(set(written) - set(options))
    if unknown:
        raise InputError(
            f"{where} has an option {shown(unknown[0])}, which this version of "
            "fedsparsify_jax does not know"
        )
    config = TrainConfig(**written)
    return dataclasses.replace(config, **schema.check(config))


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Returns the configuration as JSON values, in the order of the help."""
    values = dataclasses.asdict(config)
    return {
        field: str(value) if isinstance(value, Path) else value
        for field, value in (
            (field, values[field]) for field in schema.read(TrainConfig)
        )
    }

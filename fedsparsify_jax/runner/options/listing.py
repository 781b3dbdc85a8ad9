"""Options of a run by their traits, and as JSON."""

import dataclasses
from pathlib import Path
from typing import Any

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


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Returns the configuration as JSON values, in the order of the help."""
    values = dataclasses.asdict(config)
    return {
        field: str(value) if isinstance(value, Path) else value
        for field, value in (
            (field, values[field]) for field in schema.read(TrainConfig)
        )
    }

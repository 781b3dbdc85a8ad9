"""Options of the model beyond its name: the numbers that it computes in."""

import dataclasses
from typing import Annotated

from fedsparsify_jax.runner.options.schema import Heading
from fedsparsify_jax.types import Precision


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """A part of `config.TrainConfig`."""

    precision: Annotated[Precision, Heading("The model's numbers")] = "float32"
    """What forward passes and gradients are computed in; parameters, masks, merges,
    purges and losses are float32 either way."""

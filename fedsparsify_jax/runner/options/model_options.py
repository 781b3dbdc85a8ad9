"""Options of the model beyond its name: where it starts, what it computes in."""

import dataclasses
from pathlib import Path
from typing import Annotated

from fedsparsify_jax.runner.options.rules import above, at_least
from fedsparsify_jax.runner.options.schema import WITH_COMMAS, Heading, Shown
from fedsparsify_jax.types import Precision


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """A part of `config.TrainConfig`."""

    init: Annotated[
        Path | None,
        Heading("The model's numbers"),
        Shown(metavar="FILE_OR_RUN", hint="default: random by the seed"),
        WITH_COMMAS,
    ] = None
    """Weights to start from: a safetensors or npz file of fedsparsify export, or a
    finished run, of the same network. Pruned weights start at zero, and may grow."""
    lora_rank: Annotated[
        int | None, at_least(1), Shown(hint="with --init; default: off")
    ] = None
    """Train, send, merge and purge low-rank adapters of this rank, around the model of
    --init, which stays as it is."""
    lora_alpha: Annotated[
        float | None, above(0), Shown(hint="with --lora-rank; default: twice that")
    ] = None
    """How much adapters count: ALPHA / RANK times."""
    precision: Precision = "float32"
    """What forward passes and gradients are computed in; parameters, masks, merges,
    purges and losses are float32 either way."""

"""Options of a run's past: what its model forgets, and past models kept for fusion."""

import dataclasses
from typing import Annotated, Literal

from fedsparsify_jax.runner.options.rules import at_least
from fedsparsify_jax.runner.options.schema import TRAIN_ONLY, Heading, Shown


@dataclasses.dataclass(frozen=True)
class Past:
    """A part of `config.TrainConfig`."""

    forgetting: Annotated[Literal["on", "off"], Heading("Past models"), TRAIN_ONLY] = (
        "off"
    )
    """Measure what the model forgets: validation examples, and clients' own, that it
    was right about in an earlier round. Takes a forward pass over all data an
    evaluation."""
    fusion_every: Annotated[
        int | None, at_least(1), Shown(hint="default: off"), TRAIN_ONLY
    ] = None
    """Keep the global model of every so many rounds, and in the end fuse those that
    help the last one on the validation set."""
    fusion_window: Annotated[int, at_least(0), TRAIN_ONLY] = 1
    """Kept models on either side of a chosen one that are averaged with it."""
    fusion_masks: Annotated[Literal["own", "final"], TRAIN_ONLY] = "own"
    """Whether kept models are as they were, or pruned by the final masks."""

"""Options of a client's step beyond SGD: LARS, clipping, points of gradients."""

import dataclasses
from typing import Annotated

from fedsparsify_jax.runner.options.rules import above, from_up
from fedsparsify_jax.runner.options.schema import TRACED, Heading, Keyword, Shown
from fedsparsify_jax.types import GradientPoint, LocalOptimizer


@dataclasses.dataclass(frozen=True)
class ClientSteps:
    """A part of `config.TrainConfig`."""

    optimizer: Annotated[LocalOptimizer, Heading("Clients' steps"), Keyword()] = "sgd"
    """Optimizer of the clients. lars gives every layer a rate in proportion to the
    norm of its weights, for large batches; its authors: --momentum 0.9 --weight-decay
    5e-4."""
    weight_decay: Annotated[
        float | None, from_up(0), Keyword(), Shown(hint="of lars; default: 0"), TRACED
    ] = None
    """Decay of the weights, which counts in the rate of a layer."""
    trust_coefficient: Annotated[
        float | None, above(0), Keyword(), Shown(hint="of lars; default: 0.001"), TRACED
    ] = None
    """Length of a layer's step, as a share of its weights' norm, at a learning rate
    of 1."""
    gradient_clip: Annotated[
        float | None,
        above(0),
        Keyword(),
        Shown(hint="default: no limit; heterofl and fedrolex 1"),
        TRACED,
    ] = None
    """Largest norm of a step's gradient; longer ones are scaled down. (--clip-norm is
    of a client's whole update.)"""
    gradient_point: Annotated[GradientPoint, Keyword()] = "none"
    """Point at which clients take gradients: extrapolated along the last gradient
    (past) or a fresh one, in noise, or uphill (sam). For every algorithm that takes
    gradients as usual."""
    gradient_radius: Annotated[
        float | None,
        from_up(0),
        Keyword(),
        Shown(hint="default: the learning rate; sam 0.05, noise 0.01"),
        TRACED,
    ] = None
    """How far from the weights: the factor of a gradient or of noise, and the distance
    for sam."""

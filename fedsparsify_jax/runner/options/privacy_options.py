"""Options of differential privacy: what hides a client, and for which promise."""

import dataclasses
from typing import Annotated

from fedsparsify_jax.runner.options.rules import Rule, above
from fedsparsify_jax.runner.options.schema import TRACED, Heading, Keyword, Shown
from fedsparsify_jax.types import CohortSampling, PrivacyUnit

_DELTA = Rule(lambda value: 0 < value < 1, "above 0 and below 1")


@dataclasses.dataclass(frozen=True)
class PrivacyOptions:
    """A part of `config.TrainConfig`."""

    dp_clip: Annotated[
        float | None,
        Heading("Differential privacy"),
        above(0),
        Keyword("privacy"),
        Shown(hint="default: no privacy"),
        TRACED,
    ] = None
    """Norm that every client's update, or every example's gradient, is clipped to, for
    models that are differentially private (docs/privacy.md)."""
    dp_unit: PrivacyUnit = "client"
    """Unit that noise hides: a client with all its examples, by noise on the server, or
    one example, by noise in every step of the clients' training (DP-SGD)."""
    dp_noise: Annotated[float | None, above(0), TRACED] = None
    """Noise multiplier: deviation of the noise on the sum of updates, or of gradients,
    in units of --dp-clip."""
    epsilon: Annotated[float | None, above(0)] = None
    """Promise after the last round, in place of --dp-noise: the smallest noise that
    keeps it is taken."""
    delta: Annotated[
        float | None, _DELTA, Shown(hint="below 1 / clients, or 1 / examples")
    ] = None
    """The delta of epsilon."""
    cohort_sampling: Annotated[CohortSampling, Keyword()] = "fixed"
    """Whether a round has floor(participation * N) clients, or each one with the
    probability --participation (poisson): a far smaller epsilon for the same noise; or
    as many as fixed, who together hold nearly the classes of all (representative): the
    server is told how many examples of each class a client has."""

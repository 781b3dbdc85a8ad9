"""Membership attacks that need no shadow models: by the loss, by features.

References:
  Yeom et al., Privacy Risk in Machine Learning, CSF 2018, arXiv 1709.01604, adversary
  2: the loss against a threshold.
  Gupta et al., Membership Inference Attacks on Deep Regression Models for Neuroimaging,
  MIDL 2021, arXiv 2105.02866, and Stripelis et al., arXiv 2208.11669: a classifier of
  gradients, fitted by an attacker who holds a leaked part of the training data. We have
  seen neither their code nor their classifier: this is in the manner of theirs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fedsparsify_jax.errors import InputError

_STEPS = 30
_HALVINGS = 12


def by_loss(losses: ArrayLike) -> jax.Array:
    """Returns the scores of the loss attack, ``-loss``: larger for members.

    >>> by_loss(jnp.array([0.5, 2.0]))
    Array([-0.5, -2. ], dtype=float32)
    """
    return -jnp.asarray(losses)


class Logistic(NamedTuple):
    """A logistic regression on plain features: ``sigmoid(x w + b)``."""

    weights: jax.Array  # [d]
    bias: jax.Array  # scalar


class Evaluated(NamedTuple):
    """The scores of a fitted attack on the half that it was not fitted on."""

    scores: np.ndarray  # [h], log-odds, larger for members
    members: np.ndarray  # [h] bool
    places: np.ndarray  # [h]: of these examples among all


def logistic_regression(
    features: jax.Array, labels: jax.Array, *, decay: ArrayLike = 1e-2
) -> Logistic:
    """Fits a logistic regression by Newton's method, jittable.

    Minimises ``mean_i log(1 + exp(-s_i (x_i w + b))) + decay / 2 |w|^2`` with s = 1 for
    a label and -1 without, on standardised features; a step that does not lower it is
    halved, which happens where the classes can be told apart. The standardisation is
    folded into the answer.

    Args:
      features: ``[n, d]``. One that never varies gets no weight.
      labels: bool ``[n]``.
      decay: of the weights of standardised features, above 0.

    Example:
      >>> x = jnp.array([[0.0], [1.0], [2.0], [3.0]])
      >>> model = logistic_regression(x, jnp.array([False, False, True, True]))
      >>> (x @ model.weights + model.bias > 0).tolist()
      [False, False, True, True]
    """
    features = jnp.asarray(features, jnp.float32)
    mean, spread = jnp.mean(features, axis=0), jnp.std(features, axis=0)
    # Rounding alone makes a spread where there is none.
    varies = spread > 1e-6 * jnp.abs(mean)
    scale = jnp.where(varies, 1 / jnp.where(varies, spread, 1.0), 0.0)
    number, width = features.shape
    ones = jnp.ones((number, 1))
    design = jnp.concatenate([(features - mean[None]) * scale[None], ones], axis=1)
    sign = jnp.where(labels, 1.0, -1.0)
    # The bias has next to no decay: enough for a curvature that can be inverted.
    ridge = jnp.full(width + 1, decay, jnp.float32).at[-1].set(1e-6)

    def objective(weights: jax.Array) -> jax.Array:
        loss = jnp.mean(jax.nn.softplus(-sign * (design @ weights)))
        return loss + 0.5 * jnp.sum(ridge * weights**2)

    def step(_: int, weights: jax.Array) -> jax.Array:
        p = jax.nn.sigmoid(design @ weights)
        gradient = design.T @ (p - (sign > 0)) / number + ridge * weights
        curved = design * (p * (1 - p))[:, None]
        curvature = design.T @ curved / number + jnp.diag(ridge)
        direction = jnp.linalg.solve(curvature, gradient)
        sizes = 0.5 ** jnp.arange(_HALVINGS, dtype=jnp.float32)
        tried = weights[None] - sizes[:, None] * direction[None]
        tried = jnp.concatenate([tried, weights[None]])
        return tried[jnp.argmin(jax.vmap(objective)(tried))]

    weights = jax.lax.fori_loop(0, _STEPS, step, jnp.zeros(width + 1))
    plain = weights[:-1] * scale
    return Logistic(plain, weights[-1] - mean @ plain)


def by_features(
    features: ArrayLike,
    members: ArrayLike,
    *,
    decay: ArrayLike = 1e-2,
    seed: int = 0,
) -> Evaluated:
    """Fits a classifier of features on half of the examples and scores the other half.

    Halves of the members and of the others, drawn apart: the attacker holds the first
    half, and knows which of it the model was trained on.

    Args:
      features: ``[n, d]``, such as `scores.layer_gradients`; losses and norms can be
        put beside them.
      members: bool ``[n]``.
      decay: see `logistic_regression`.
      seed: of the halves.

    Raises:
      InputError: for other shapes, numbers that are not finite, or fewer than two
        examples of a kind.
    """
    features = np.asarray(features, np.float32)
    members = np.asarray(members)
    if features.ndim != 2 or members.shape != features.shape[:1]:
        raise InputError(
            f"features have shape {list(features.shape)}, members "
            f"{list(members.shape)}: they must be [n, d] and [n]"
        )
    if not np.isfinite(features).all():
        raise InputError("features hold NaN or infinities: leave those examples out")
    sides = [np.flatnonzero(members), np.flatnonzero(~members.astype(bool))]
    if min(map(len, sides)) < 2:
        raise InputError(
            f"there are {len(sides[0])} members and {len(sides[1])} others: a "
            "classifier needs two of each, one to fit and one to score"
        )
    rng = np.random.default_rng(seed)
    halves = [np.array_split(rng.permutation(side), 2) for side in sides]
    fit, score = (np.sort(np.concatenate(part)) for part in zip(*halves, strict=True))

    fitted = jax.jit(logistic_regression)(
        features[fit], members[fit].astype(bool), decay=decay
    )
    odds = np.asarray(features[score] @ np.asarray(fitted.weights) + fitted.bias)
    return Evaluated(scores=odds, members=members[score].astype(bool), places=score)

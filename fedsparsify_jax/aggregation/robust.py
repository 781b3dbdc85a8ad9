"""Merges that some hostile clients cannot steer: trimmed mean, Krum, geometric median.

Signature and conventions are those of `merges`: the clients' variables and masks
``[K, ...]``, their weights ``[K]``, the global variables before the round; a client of
weight zero is absent whatever its arrays hold, and pruned entries of a present one are
zeros. All collections are merged the same way, running statistics included: none of
these rules leaves the range of what clients sent. ``attackers`` is the share of the
present clients, below one half, that a rule is to withstand.

References:
  Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient
  Descent, NeurIPS 2017, arXiv 1703.02757 (Krum, multi-Krum).
  Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates,
  ICML 2018, arXiv 1803.01498 (coordinate-wise trimmed mean; the median is in `merges`).
  Pillutla, Kakade and Harchaoui, Robust Aggregation for Federated Learning, IEEE TSP
  2022, arXiv 1912.13445 (RFA: the geometric median by the smoothed Weiszfeld method).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.aggregation.means import weighted_mean
from fedsparsify_jax.aggregation.ranks import mean_of_ranks
from fedsparsify_jax.types import Masks, PyTree, Variables

ATTACKERS = 0.3
"""The share of hostile clients that is withstood unless another one is given."""

_LARGEST = float(jnp.finfo(jnp.float32).max)


def check_attackers(attackers: ArrayLike) -> None:
    """Refuses a share out of range, where it is a plain number.

    Raises:
      ValueError: no rule withstands a majority.
    """
    if isinstance(attackers, int | float) and not 0 <= attackers < 0.5:
        raise ValueError(
            f"attackers to withstand is {attackers}: it must be at least 0 and below "
            "0.5"
        )


def _how_many(attackers: ArrayLike, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Counts the present clients, and those of them that count as hostile."""
    check_attackers(attackers)
    present = jnp.sum(weights > 0, dtype=jnp.int32)
    # The tolerance keeps 0.3 of 10 from being 2 by rounding.
    hostile = jnp.floor(present * jnp.asarray(attackers, jnp.float32) + 1e-4)
    return present, hostile.astype(jnp.int32)


def trimmed_mean(
    stacked: Variables,
    masks: Masks,
    weights: jax.Array,
    previous: Variables,
    *,
    attackers: ArrayLike = ATTACKERS,
) -> Variables:
    """Averages every entry without its ``floor(attackers m)`` largest and smallest.

    m is the number of the present clients, each of which counts once.

    >>> stacked = {"w": jnp.array([[1.0], [2.0], [3.0], [100.0], [-100.0]])}
    >>> kept = {"w": jnp.ones((5, 1), bool)}
    >>> trimmed_mean(
    ...     stacked, kept, jnp.ones(5), {"w": jnp.zeros(1)}, attackers=0.2)
    {'w': Array([2.], dtype=float32)}
    """
    del previous
    present, cut = _how_many(attackers, weights)
    middle = partial(mean_of_ranks, present=weights > 0, low=cut, high=present - cut)
    return jax.tree.map(middle, mask_algebra.apply(masks, stacked))


def _parameters(tree: PyTree) -> list[jax.Array]:
    """Returns the leaves to measure distances in: parameters, if they are apart."""
    return jax.tree.leaves(tree.get("params", tree))


def _square_distances(stacked: Variables, others: Variables) -> jax.Array:
    """Measures each client's distance from a point: float32 ``[K]``, inf if too far."""
    total = jnp.float32(0)
    for leaf, other in zip(_parameters(stacked), _parameters(others), strict=True):
        gap = (leaf - other[None]).astype(jnp.float32)
        total = total + jnp.sum(gap * gap, axis=tuple(range(1, leaf.ndim)))
    return total


def krum_scores(
    stacked: Variables, weights: jax.Array, attackers: ArrayLike
) -> jax.Array:
    """Scores clients by the distance from neighbours: float32 ``[K]``, inf if absent.

    The sum of the squared distances to the ``m - f - 2`` nearest of the m present
    clients (at least one), where ``f = floor(attackers m)``.
    """
    present, hostile = _how_many(attackers, weights)
    neighbours = jnp.minimum(jnp.maximum(present - hostile - 2, 1), present - 1)
    here = weights > 0
    number = jnp.arange(len(weights))

    def score(mine: jax.Array) -> jax.Array:
        # Gaps, not scalar products: these would lose what tells close models apart.
        square = _square_distances(stacked, trees.take(stacked, mine))
        square = jnp.minimum(square, _LARGEST)
        ordered = jnp.sort(jnp.where(here & (number != mine), square, jnp.inf))
        return jnp.sum(jnp.where(number < neighbours, ordered, 0.0))

    # One client after another: K^2 gaps of whole models would not fit.
    scores = jnp.minimum(jax.lax.map(score, number), _LARGEST)
    return jnp.where(here, scores, jnp.inf)


def _zeros_for_absent(stacked: Variables, masks: Masks, weights: jax.Array) -> PyTree:
    def present(mask: jax.Array, leaf: jax.Array) -> jax.Array:
        return jnp.where(mask & trees.align(weights > 0, leaf), leaf, 0)

    return jax.tree.map(present, masks, stacked)


def krum(
    stacked: Variables,
    masks: Masks,
    weights: jax.Array,
    previous: Variables,
    *,
    attackers: ArrayLike = ATTACKERS,
) -> Variables:
    """Takes the model of the client closest to its neighbours (`krum_scores`).

    Its guarantee needs ``m >= 2 f + 3`` present clients.

    >>> stacked = {"w": jnp.array([[1.0], [1.1], [1.3], [9.0], [1.2]])}
    >>> kept = {"w": jnp.ones((5, 1), bool)}
    >>> present = jnp.array([1, 1, 1, 1, 0])
    >>> krum(stacked, kept, present, {"w": jnp.zeros(1)}, attackers=0.0)
    {'w': Array([1.1], dtype=float32)}
    """
    del previous
    stacked = _zeros_for_absent(stacked, masks, weights)
    best = jnp.argmin(krum_scores(stacked, weights, attackers))
    return trees.take(stacked, best)


def multi_krum(
    stacked: Variables,
    masks: Masks,
    weights: jax.Array,
    previous: Variables,
    *,
    attackers: ArrayLike = ATTACKERS,
) -> Variables:
    """Averages the ``m - f`` clients with the smallest `krum_scores`.

    >>> stacked = {"w": jnp.array([[1.0], [2.0], [3.0], [99.0]])}
    >>> kept = {"w": jnp.ones((4, 1), bool)}
    >>> multi_krum(stacked, kept, jnp.ones(4), {"w": jnp.zeros(1)})
    {'w': Array([2.], dtype=float32)}
    """
    del previous
    stacked = _zeros_for_absent(stacked, masks, weights)
    present, hostile = _how_many(attackers, weights)
    order = jnp.argsort(krum_scores(stacked, weights, attackers))
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
    chosen = (rank < present - hostile) & (weights > 0)
    return weighted_mean(stacked, chosen.astype(jnp.float32))


def geometric_median(
    stacked: Variables,
    masks: Masks,
    weights: jax.Array,
    previous: Variables,
    *,
    iterations: int = 8,
    smoothing: ArrayLike = 1e-6,
) -> Variables:
    """Finds the point with the smallest weighted sum of distances to the models.

    Smoothed Weiszfeld: ``z <- sum_k b_k w_k / sum_k b_k`` with
    ``b_k = n_k / max(smoothing, |z - w_k|)``, a fixed number of times. It starts from
    the global model before the round, not from the mean, so that what a client adds to
    the first step is bounded however far it went.

    >>> stacked = {"w": jnp.array([[1.0], [2.0], [99.0]])}
    >>> kept = {"w": jnp.ones((3, 1), bool)}
    >>> found = geometric_median(
    ...     stacked, kept, jnp.ones(3), {"w": jnp.zeros(1)}, iterations=20)
    >>> round(float(found["w"][0]), 2)
    2.0
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}: it must be at least 1")
    stacked = _zeros_for_absent(stacked, masks, weights)
    weights = jnp.asarray(weights, jnp.float32)

    def better(_: int, point: Variables) -> Variables:
        # Who is so far that the square overflows has weight 0, as if absent.
        distance = jnp.sqrt(_square_distances(stacked, point))
        return weighted_mean(stacked, weights / jnp.maximum(distance, smoothing))

    return jax.lax.fori_loop(0, iterations, better, previous)

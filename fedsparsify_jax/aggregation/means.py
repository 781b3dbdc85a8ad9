"""From the clients' models of one round to the server's.

Stacked trees have a leading client axis ``[K, ...]``; ``weights`` ``[K]`` are the
clients' numbers of examples. A client of weight zero is absent: it neither adds to a
mean nor votes, whatever its arrays hold, and if everybody is absent the means are zero.

The means are quotients of `Sums` over clients, which a large cohort adds up part by
part (`streaming`).
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.types import Masks, PyTree, Variables


class Sums(NamedTuple):
    """Sums over a part of the cohort, of which the means are made."""

    total: Variables  # sum_k n_k w_k, float32
    weight: PyTree  # sum_k n_k: a scalar, or a tree of those who count at each entry


def shares(weights: jax.Array) -> jax.Array:
    """Scales weights to sum 1 (or 0): a single client's model stays as it is."""
    weights = jnp.asarray(weights, jnp.float32)
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1.0)


def _check(stacked: Variables, weights: jax.Array) -> None:
    chex.assert_shape(weights, (trees.leading_size(stacked),))


def sums(stacked: Variables, weights: jax.Array) -> Sums:
    """Returns the sums of the mean over all clients."""
    _check(stacked, weights)
    total = trees.weighted_sum(stacked, weights)
    return Sums(total, jnp.sum(weights.astype(jnp.float32)))


def nonzero_sums(stacked: Variables, masks: Masks, weights: jax.Array) -> Sums:
    """Returns the sums of the mean over the clients that keep an entry."""
    _check(stacked, weights)
    chex.assert_trees_all_equal_shapes(stacked, masks)
    total = trees.weighted_sum(mask_algebra.apply(masks, stacked), weights)
    return Sums(total, trees.weighted_sum(masks, weights))


def mean(sums: Sums, like: Variables) -> Variables:
    """Divides sums into the mean; it is zero where no client counts.

    In the dtypes of ``like``; whole numbers are rounded to the nearest.

    >>> mean(Sums({"w": jnp.array([6.0])}, jnp.float32(3)), {"w": jnp.zeros(1)})
    {'w': Array([2.], dtype=float32)}
    """

    def divide(total: jax.Array, weight: jax.Array, old: jax.Array) -> jax.Array:
        some = weight > 0
        result = jnp.where(some, total / jnp.where(some, weight, 1.0), 0.0)
        if jnp.issubdtype(old.dtype, jnp.integer):
            result = jnp.round(result)
        return result.astype(old.dtype)

    weight = sums.weight
    if isinstance(weight, jax.Array):
        weight = jax.tree.map(lambda _: weight, sums.total)
    return jax.tree.map(divide, sums.total, weight, like)


def weighted_mean(stacked: Variables, weights: jax.Array) -> Variables:
    """Returns ``sum_k n_k w_k / sum_k n_k``, the merge of FedAvg.

    References:
      McMahan et al., Communication-Efficient Learning of Deep Networks from
      Decentralized Data (arXiv 1602.05629), algorithm 1.

    Example:
      >>> weighted_mean({"w": jnp.array([[1.0], [4.0]])}, jnp.array([2, 1]))
      {'w': Array([2.], dtype=float32)}
    """
    return mean(sums(stacked, shares(weights)), like=stacked)


def nonzero_mean(stacked: Variables, masks: Masks, weights: jax.Array) -> Variables:
    """Returns the mean over the clients that keep a position; zero where none does.

    ``sum_k n_k m_k w_k / sum_k n_k m_k``, position by position ("FedAvgNNZ" in the
    FedSparsify code).

    Args:
      stacked: the clients' variables, leaves ``[K, ...]``.
      masks: the clients' masks, leaves ``[K, ...]``.
      weights: ``[K]``.

    Example:
      >>> kept = {"w": jnp.array([[True, False], [True, False]])}
      >>> nonzero_mean({"w": jnp.ones((2, 2))}, kept, jnp.array([1, 3]))
      {'w': Array([1., 0.], dtype=float32)}
    """
    return mean(nonzero_sums(stacked, masks, shares(weights)), like=stacked)


def majority_vote_mean(
    stacked: Variables, masks: Masks, weights: jax.Array, *, rule: str = "authors"
) -> tuple[Variables, Masks]:
    """Returns the weighted mean, zeros included, under the majority of the masks.

    ``m = [votes >= needed]``, ``w = m * sum_k n_k m_k w_k / sum_k n_k``: a client
    that pruned an elected position adds a zero to its mean.

    Args:
      stacked: the clients' variables, leaves ``[K, ...]``.
      masks: the clients' masks, leaves ``[K, ...]``.
      weights: ``[K]``; clients of weight zero have no vote.
      rule: see `masks.majority_vote`.

    Returns:
      The merged variables and the elected masks.

    References:
      Stripelis et al., FedSparsify (arXiv 2204.12430), FedSparsify-Local.

    Example:
      >>> kept = {"w": jnp.array([[True, True], [False, False], [False, True]])}
      >>> merged, elected = majority_vote_mean(
      ...     {"w": jnp.full((3, 2), 3.0)}, kept, jnp.array([1, 1, 1]), rule="strict")
      >>> merged["w"], elected["w"]
      (Array([0., 2.], dtype=float32), Array([False,  True], dtype=bool))
    """
    _check(stacked, weights)
    chex.assert_trees_all_equal_shapes(stacked, masks)
    elected = mask_algebra.majority_vote(masks, weights > 0, rule=rule)
    mean = weighted_mean(mask_algebra.apply(masks, stacked), weights)
    return mask_algebra.apply(elected, mean), elected

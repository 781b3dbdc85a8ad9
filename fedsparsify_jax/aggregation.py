"""From the clients' models of one round to the server's.

Stacked trees have a leading client axis ``[K, ...]``; ``weights`` ``[K]`` are the
clients' numbers of examples. A client of weight zero is absent: it neither adds to a
mean nor votes, whatever its arrays hold, and if everybody is absent the means are zero.
"""

import chex
import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.types import Masks, Variables


def _shares(weights: jax.Array) -> jax.Array:
    """Weights scaled to sum 1, or all zero."""
    weights = jnp.asarray(weights, jnp.float32)
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1.0)


def _check(stacked: Variables, weights: jax.Array) -> None:
    chex.assert_shape(weights, (trees.leading_size(stacked),))


def weighted_mean(stacked: Variables, weights: jax.Array) -> Variables:
    """``sum_k n_k w_k / sum_k n_k``, the merge of FedAvg.

    References:
      McMahan et al., Communication-Efficient Learning of Deep Networks from
      Decentralized Data (arXiv 1602.05629), algorithm 1.

    Example:
      >>> weighted_mean({"w": jnp.array([[1.0], [4.0]])}, jnp.array([2, 1]))
      {'w': Array([2.], dtype=float32)}
    """
    _check(stacked, weights)
    return trees.weighted_sum(stacked, _shares(weights))


def nonzero_mean(stacked: Variables, masks: Masks, weights: jax.Array) -> Variables:
    """Mean over the clients that kept a position; zero where nobody did.

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
    _check(stacked, weights)
    chex.assert_trees_all_equal_shapes(stacked, masks)
    shares = _shares(weights)
    total = trees.weighted_sum(mask_algebra.apply(masks, stacked), shares)
    kept = jax.tree.map(lambda mask: mask.astype(jnp.float32), masks)
    share = trees.weighted_sum(kept, shares)
    return jax.tree.map(
        lambda top, low: jnp.where(low > 0, top / jnp.where(low > 0, low, 1.0), 0.0),
        total,
        share,
    )


def majority_vote_mean(
    stacked: Variables, masks: Masks, weights: jax.Array, *, rule: str = "authors"
) -> tuple[Variables, Masks]:
    """Majority vote of the masks, then the weighted mean including zeros.

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


def majority_vote_nonzero_mean(
    stacked: Variables, masks: Masks, weights: jax.Array, *, rule: str = "authors"
) -> tuple[Variables, Masks]:
    """Majority vote of the masks, then the mean over those who kept a position.

    The arguments and the result are those of `majority_vote_mean`.
    """
    _check(stacked, weights)
    elected = mask_algebra.majority_vote(masks, weights > 0, rule=rule)
    mean = nonzero_mean(stacked, masks, weights)
    return mask_algebra.apply(elected, mean), elected

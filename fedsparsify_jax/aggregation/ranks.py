"""Means of clients' entries by rank: what a median and a trimmed mean are made of."""

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees


def ranks(leaf: jax.Array, present: jax.Array) -> jax.Array:
    """Counts the present clients that stand before each client, entry by entry.

    The smaller stands first, the equal in the order of the clients, what is not a
    number last. The absent, whatever they hold, stand before nobody.

    Ranks are counted, one client after another. For a cohort that is K passes over the
    clients' models; XLA's sort of a leading axis takes seven times as long for ten
    clients on a CPU and over twice for a hundred (`benchmarks/order_statistics.py`).

    Args:
      leaf: ``[K, ...]``.
      present: bool ``[K]``.

    Returns:
      int32 ``[K, ...]``; of the m present clients these are 0 to m - 1.

    Example:
      >>> values = jnp.array([[3.0], [1.0], [0.0], [3.0]])
      >>> ranks(values, jnp.array([True, True, False, True]))[:, 0]
      Array([1, 0, 0, 2], dtype=int32)
    """
    leaf, present = jnp.asarray(leaf), jnp.asarray(present)
    number = trees.align(jnp.arange(len(leaf)), leaf)
    nan = jnp.isnan(leaf)

    def count(other: jax.Array, rank: jax.Array) -> jax.Array:
        value, broken = leaf[other][None], nan[other][None]
        equal = (value == leaf) | (broken & nan)
        less = (value < leaf) | (nan & ~broken)
        before = less | (equal & (other < number))
        return rank + (before & present[other])

    return jax.lax.fori_loop(0, len(leaf), count, jnp.zeros(leaf.shape, jnp.int32))


def mean_of_ranks(
    leaf: jax.Array, present: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
    """Averages the present clients' entries whose rank is in ``[low, high)``.

    Args:
      leaf: ``[K, ...]``.
      present: bool ``[K]``.
      low: the first rank, a scalar; may be traced.
      high: the one after the last.

    Returns:
      ``[...]`` in the leaf's dtype, whole numbers rounded; 0 where no rank is inside.

    Example:
      >>> values = jnp.array([[3.0], [1.0], [0.0], [9.0]])
      >>> mean_of_ranks(values, jnp.ones(4, bool), 1, 3)
      Array([2.], dtype=float32)
    """
    leaf = jnp.asarray(leaf)
    rank = ranks(leaf, present)
    inside = (rank >= low) & (rank < high) & trees.align(jnp.asarray(present), leaf)
    # Divided before the sum, so that large values do not overflow.
    share = leaf.astype(jnp.float32) / jnp.maximum(high - low, 1)
    mean = jnp.sum(jnp.where(inside, share, 0.0), axis=0)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        mean = jnp.round(mean)
    return mean.astype(leaf.dtype)

"""The mechanism of user-level DP-FedAvg: clipped updates, a noisy sum.

With the updates ``d_k = m * (w_k - w)`` of the clients of a round under the masks m
that the server had before it,

    w <- w + m * (sum_k min(1, C / |d_k|) d_k + z C N(0, I)) / D

(McMahan et al., Learning Differentially Private Recurrent Language Models, arXiv
1710.06963, algorithm 1). Three things bound how far one client moves the sum, and so
what noise is worth:

* the norm of every update is at most C, and one with a NaN or an infinity is zero;
* all clients count alike. Weights by numbers of examples would themselves be secrets;
* the denominator D is fixed before training: the cohort's size K for fixed cohorts,
  ``q N`` for Poisson samples. A client that drops out leaves a zero in the sum, and the
  mean is smaller for it. To divide by those who came would undo the bound.

Noise goes where m keeps, so pruned entries stay exactly zero; m is public, being made
of noisy models or of none.

These are floating-point numbers of a generator that is not cryptographic. Who knows the
seed can take the noise off again, and the attack on the gaps between floating-point
numbers (Mironov, CCS 2012) is not defended against.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.types import Key, Masks, PyTree, Variables

# Far from the small numbers that `split` folds in.
_NOISE = 0x5EC2E7


def noise_key(key: Key) -> Key:
    """Derives the key of a round's noise; ``key``, the server's, is not consumed."""
    return jax.random.fold_in(jax.random.clone(key), _NOISE)


def clip(update: PyTree, norm: ArrayLike) -> PyTree:
    """Scales an update down to a norm; to zero if a number of it is not finite.

    Args:
      update: float leaves.
      norm: C, the largest Euclidean norm; may be traced.

    Example:
      >>> clip({"w": jnp.array([3.0, 4.0])}, 1.0)
      {'w': Array([0.6, 0.8], dtype=float32)}
      >>> clip({"w": jnp.array([jnp.inf, 4.0])}, 1.0)
      {'w': Array([0., 0.], dtype=float32)}
    """
    finite = jnp.all(
        jnp.stack([jnp.all(jnp.isfinite(u)) for u in jax.tree.leaves(update)])
    )
    safe = jax.tree.map(lambda u: jnp.where(finite, u, 0.0), update)
    scale = trees.shrinkage(safe, norm)
    return jax.tree.map(lambda u: u * scale, safe)


def clipped_update(
    sent: Variables, start: Variables, masks: Masks, norm: ArrayLike
) -> Variables:
    """Returns a client's update under the masks, clipped, in float32 at least.

    Args:
      sent: the client's model.
      start: the model that all clients started from.
      masks: of the round; what they do not keep is no part of the update, whatever the
        client sent there.
      norm: C.

    Example:
      >>> kept = {"w": jnp.array([True, True, False])}
      >>> sent, start = {"w": jnp.array([4.0, 4.0, 9.0])}, {"w": jnp.array([1.0, 0, 0])}
      >>> clipped_update(sent, start, kept, 1.0)
      {'w': Array([0.6, 0.8, 0. ], dtype=float32)}
    """

    def difference(new: jax.Array, old: jax.Array) -> jax.Array:
        dtype = jnp.promote_types(new.dtype, jnp.float32)
        return new.astype(dtype) - old.astype(dtype)

    update = jax.tree.map(difference, sent, start)
    return clip(mask_algebra.apply(masks, update), norm)


def clipped_sum(
    sent: Variables, present: jax.Array, start: Variables, masks: Masks, norm: ArrayLike
) -> Variables:
    """Adds up the clipped updates of the clients that are present, all alike.

    To add or remove a client moves the sum by at most ``norm``, to replace one by twice
    that, whatever it sends.

    Args:
      sent: the clients' models, ``[K, ...]``.
      present: bool ``[K]``.
      start: the model that they started from.
      masks: of the round.
      norm: C.
    """
    updates = jax.vmap(lambda model: clipped_update(model, start, masks, norm))(sent)
    return trees.weighted_sum(updates, present.astype(jnp.float32))


def moved(start: Variables, total: Variables, denominator: ArrayLike) -> Variables:
    """Returns ``start + total / denominator`` in the dtypes of ``start``."""
    new = jax.tree.map(lambda old, step: old + step / denominator, start, total)
    return trees.cast_like(new, start)


def add_noise(
    key: Key, variables: Variables, masks: Masks, deviation: ArrayLike
) -> Variables:
    """Adds normal noise to all that the masks keep; the others become exactly zero.

    Args:
      key: of the noise, see `noise_key`.
      variables: float leaves.
      masks: the same structure.
      deviation: of every entry; ``z C / D`` on a mean, see `deviation_of_mean`.

    Example:
      >>> kept = {"w": jnp.array([True, False])}
      >>> add_noise(jax.random.key(0), {"w": jnp.array([1.0, 2.0])}, kept, 0.0)
      {'w': Array([1., 0.], dtype=float32)}
    """
    return mask_algebra.apply(masks, noisy(key, variables, deviation))


def noisy(key: Key, tree: PyTree, deviation: ArrayLike) -> PyTree:
    """Adds normal noise to all of a tree, in its dtypes.

    Args:
      key: consumed.
      tree: float leaves.
      deviation: of every entry; may be traced.

    Example:
      >>> noisy(jax.random.key(0), {"w": jnp.array([1.0, 2.0])}, 0.0)
      {'w': Array([1., 2.], dtype=float32)}
    """
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    moved = [
        (leaf + deviation * jax.random.normal(one, leaf.shape)).astype(leaf.dtype)
        for leaf, one in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def deviation_of_mean(
    noise_multiplier: ArrayLike, norm: ArrayLike, denominator: ArrayLike
) -> jax.Array:
    """Returns the standard deviation ``z C / D`` of the noise on the mean update.

    >>> deviation_of_mean(2.0, 0.5, 10)
    Array(0.1, dtype=float32)
    """
    return jnp.float32(noise_multiplier) * norm / denominator

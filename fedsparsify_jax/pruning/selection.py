"""Scores and a sparsity to masks; `threshold` finds what separates them."""

import math
from typing import get_args

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.masks import prunable_leaves
from fedsparsify_jax.pruning import allocation
from fedsparsify_jax.pruning.threshold import largest, sort_keys
from fedsparsify_jax.types import Masks, Prunable, PyTree, Scope, Scores, Variables

SCOPES = get_args(Scope)


def magnitude(variables: Variables) -> Scores:
    """Scores a parameter by its absolute value.

    >>> magnitude({"w": jnp.array([-2.0, 1.0])})
    {'w': Array([2., 1.], dtype=float32)}
    """
    return jax.tree.map(jnp.abs, variables)


def prune(
    scores: Scores,
    sparsity: ArrayLike,
    *,
    scope: Scope = "global",
    within: Masks | None = None,
    prunable: Prunable | None = None,
) -> Masks:
    """Masks that keep the parameters with the largest scores.

    Of n prunable parameters exactly ``n - floor(s n)`` stay (see
    `allocation.kept_count` for the rounding of a traced ``s``); ties go to the lowest
    index. NaN scores are the first to go.

    Args:
      scores: float tree with the structure of the variables.
      sparsity: s in [0, 1]; may be traced.
      scope: ``"global"`` compares all parameters with one threshold; the others give
        every leaf its own count, see `leaf_counts`.
      within: masks that the result may not leave (monotone pruning). If it keeps
        fewer than asked for, all of it stays.
      prunable: path of a leaf to whether it may be pruned; see
        `masks.prunable_leaves`. Other leaves are kept whole and are not counted.

    Returns:
      Bool tree with the structure of ``scores``.

    Raises:
      ValueError: for an unknown scope or a concrete sparsity outside [0, 1].
      AssertionError: at trace time, if ``within`` differs in structure or shape.

    References:
      Stripelis et al., FedSparsify (arXiv 2204.12430): one threshold over all layers.

    Example:
      >>> prune({"w": jnp.array([3.0, 1.0, 2.0]), "b": jnp.array([2.0])}, 0.5)
      {'b': Array([ True], dtype=bool), 'w': Array([ True, False, False], dtype=bool)}
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}: one of {', '.join(SCOPES)}")
    if isinstance(sparsity, int | float) and not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is {sparsity}: it must lie in [0, 1]")
    if within is not None:
        chex.assert_trees_all_equal_structs(scores, within)
        chex.assert_trees_all_equal_shapes(scores, within)

    if scope != "global":
        counts = leaf_counts(scores, sparsity, scope=scope, prunable=prunable)
        return keep_counts(scores, counts, within=within, prunable=prunable)

    leaves, structure = jax.tree.flatten(scores)
    chosen = jax.tree.leaves(prunable_leaves(scores, prunable))
    allowed = [None] * len(leaves) if within is None else jax.tree.leaves(within)
    picked = [i for i, use in enumerate(chosen) if use]
    keys = [sort_keys(leaves[i], allowed[i]) for i in picked]
    result = [jnp.ones(jnp.shape(leaf), bool) for leaf in leaves]
    if picked:
        total = sum(key.size for key in keys)
        count = allocation.kept_count(total, sparsity)
        flat = largest([keys], count[jnp.newaxis])[0]
        for i, mask in zip(picked, flat, strict=True):
            result[i] = mask.reshape(jnp.shape(leaves[i]))
    return jax.tree.unflatten(structure, result)


def leaf_counts(
    variables: Variables,
    sparsity: ArrayLike,
    *,
    scope: Scope = "layer",
    prunable: Prunable | None = None,
) -> PyTree:
    """Counts the entries that every leaf is to keep: a tree of int32 scalars.

    Args:
      variables: anything with the shapes of the variables.
      sparsity: s in [0, 1]; may be traced.
      scope: ``"layer"`` gives every leaf the sparsity s; ``"er"``, ``"erk"`` and
        ``"erk_feddst"`` divide the budget by a rule of `allocation.RULES` and leave
        vectors dense.
      prunable: path of a leaf to whether it may be pruned; others keep everything.

    Example:
      >>> leaf_counts({"w": jnp.zeros((4, 5)), "b": jnp.zeros(2)}, 0.5, scope="erk")
      {'b': Array(2, dtype=int32), 'w': Array(9, dtype=int32)}
    """
    leaves, structure = jax.tree.flatten(variables)
    chosen = jax.tree.leaves(prunable_leaves(variables, prunable))
    picked = [i for i, use in enumerate(chosen) if use]
    shapes = [jnp.shape(leaves[i]) for i in picked]
    counts = [jnp.int32(leaf.size) for leaf in leaves]
    if scope == "layer":
        mine = [allocation.kept_count(math.prod(shape), sparsity) for shape in shapes]
    elif scope in allocation.RULES:
        mine = allocation.erk_counts(shapes, sparsity, rule=scope) if picked else []
    else:
        raise ValueError(f"scope {scope!r} gives leaves no counts of their own")
    for i, count in zip(picked, mine, strict=True):
        counts[i] = count
    return jax.tree.unflatten(structure, counts)


def keep_counts(
    scores: Scores,
    counts: PyTree,
    *,
    within: Masks | None = None,
    prunable: Prunable | None = None,
) -> Masks:
    """Masks that keep the given number of largest scores in every leaf.

    Ties go to the lowest index, NaN goes first, as in `prune`.

    Args:
      scores: float tree with the structure of the variables.
      counts: tree of int32 scalars of the same structure; may be traced.
      within: masks that the result may not leave.
      prunable: path of a leaf to whether it may be pruned; others are kept whole.

    Example:
      >>> keep_counts({"w": jnp.array([3.0, 1.0, 2.0])}, {"w": 2})
      {'w': Array([ True, False,  True], dtype=bool)}
    """
    leaves, structure = jax.tree.flatten(scores)
    chosen = jax.tree.leaves(prunable_leaves(scores, prunable))
    allowed = [None] * len(leaves) if within is None else jax.tree.leaves(within)
    wanted = jax.tree.leaves(counts)
    picked = [i for i, use in enumerate(chosen) if use]
    result = [jnp.ones(jnp.shape(leaf), bool) for leaf in leaves]
    if picked:
        keys = [[sort_keys(leaves[i], allowed[i])] for i in picked]
        keep = jnp.stack([jnp.asarray(wanted[i], jnp.int32) for i in picked])
        for i, (mask,) in zip(picked, largest(keys, keep), strict=True):
            result[i] = mask.reshape(jnp.shape(leaves[i]))
    return jax.tree.unflatten(structure, result)


def share_counts(masks: Masks, share: ArrayLike) -> PyTree:
    """Counts ``floor(share * kept)`` of every leaf: a tree of int32 scalars.

    >>> share_counts({"w": jnp.array([True, True, True, False])}, 0.7)
    {'w': Array(2, dtype=int32)}
    """

    def count(mask: jax.Array) -> jax.Array:
        kept = jnp.sum(mask, dtype=jnp.int32)
        return jnp.floor(share * kept.astype(jnp.float32)).astype(jnp.int32)

    return jax.tree.map(count, masks)


def drop_share(
    scores: Scores,
    masks: Masks,
    share: ArrayLike,
    *,
    prunable: Prunable | None = None,
) -> Masks:
    """Drops ``floor(share * kept)`` of the smallest scores from what each leaf keeps.

    Args:
      scores: float tree with the structure of the variables.
      masks: what is kept so far.
      share: in [0, 1]; may be traced.
      prunable: path of a leaf to whether it may be pruned; others are kept whole.

    Example:
      >>> kept = {"w": jnp.array([True, True, False])}
      >>> drop_share({"w": jnp.array([2.0, 1.0, 3.0])}, kept, 0.5)
      {'w': Array([ True, False, False], dtype=bool)}
    """
    dropped = share_counts(masks, share)
    counts = jax.tree.map(
        lambda mask, k: jnp.sum(mask, dtype=jnp.int32) - k, masks, dropped
    )
    return keep_counts(scores, counts, within=masks, prunable=prunable)

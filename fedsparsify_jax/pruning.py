"""Scores and a sparsity to masks, exactly and without sorting.

The threshold is found on bit patterns: floats map to unsigned integers of the same
order, and 16 passes of "how many are at least each of these three candidates" build the
k-th largest two bits at a time, with k a traced number. Counts add up over leaves, so
nothing is concatenated. On CPU this is over twenty times faster than sorting the model.
"""

import itertools
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import allocation
from fedsparsify_jax.masks import prunable_leaves
from fedsparsify_jax.types import Masks, Prunable, PyTree, Scores, Variables

SCOPES = ("global", "layer", *allocation.RULES)


def magnitude(variables: Variables) -> Scores:
    """Scores a parameter by its absolute value.

    >>> magnitude({"w": jnp.array([-2.0, 1.0])})
    {'w': Array([2., 1.], dtype=float32)}
    """
    return jax.tree.map(jnp.abs, variables)


def _sort_keys(scores: jax.Array, within: jax.Array | None) -> jax.Array:
    """Floats to uint32 of the same order, as a flat vector.

    Pattern 0, which no float maps to, marks what is outside ``within``. NaN counts as
    the smallest score, and -0 equals +0.
    """
    scores = jnp.ravel(scores).astype(jnp.float32)
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    scores = jnp.where(scores == 0, 0.0, scores)
    bits = jax.lax.bitcast_convert_type(scores, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    keys = jnp.where(bits >= sign, ~bits, bits | sign)
    return keys if within is None else jnp.where(jnp.ravel(within), keys, 0)


def largest_true(
    holds: Callable[[jax.Array], jax.Array],
    bits: ArrayLike,
    shape: tuple[int, ...] = (),
) -> jax.Array:
    """The largest uint32 below ``2^bits`` for which a monotone test holds (or 0).

    With a shape, as many searches side by side: ``holds`` maps candidates of that
    shape to bools of that shape.
    """

    def body(i: jax.Array, best: jax.Array) -> jax.Array:
        shift = (jnp.asarray(bits) - 1 - i).astype(jnp.uint32)
        candidate = best | (jnp.uint32(1) << shift)
        return jnp.where(holds(candidate), candidate, best)

    return jax.lax.fori_loop(0, bits, body, jnp.zeros(shape, jnp.uint32))


Groups = list[list[jax.Array]]
"""Flat leaves of a model, divided into groups that have a threshold each."""
ROW = 512
"""Keys whose counts are added up side by side, as parts of one integer."""
PART = 10
"""Bits of such a part: enough to count to `ROW`."""


def _thresholds(groups: Groups, keep: jax.Array) -> jax.Array:
    """The ``keep``-th largest key of every group: uint32 ``[G]``; all ones for none.

    Reading the keys is what takes the time, so every pass decides two bits. Three
    counts share an integer, row by row, and a row's count fits into its part.
    """
    rows = [[_rows(keys) for keys in group] for group in groups]

    def body(i: jax.Array, best: jax.Array) -> jax.Array:
        shift = (30 - 2 * i).astype(jnp.uint32)
        candidates = [best | (jnp.uint32(digit) << shift) for digit in (1, 2, 3)]
        counts = [
            sum(_three_counts(keys, [c[g] for c in candidates]) for keys in group)
            for g, group in enumerate(rows)
        ]
        reached = jnp.stack(counts) >= keep[:, jnp.newaxis]
        return best | (jnp.sum(reached, axis=1, dtype=jnp.uint32) << shift)

    return jax.lax.fori_loop(0, 16, body, jnp.zeros(len(groups), jnp.uint32))


def _rows(keys: jax.Array) -> jax.Array:
    """A vector as ``[rows, ROW]``, filled up with the pattern that is never counted."""
    return jnp.pad(keys, (0, -keys.size % ROW)).reshape(-1, ROW)


def _three_counts(rows: jax.Array, candidates: list[jax.Array]) -> jax.Array:
    """How many keys are at least each candidate: int32 ``[3]``."""
    ones = [
        jnp.where(rows >= candidate, jnp.uint32(1 << PART * i), jnp.uint32(0))
        for i, candidate in enumerate(candidates)
    ]
    packed = jnp.sum(ones[0] + ones[1] + ones[2], axis=1, dtype=jnp.uint32)
    parts = [(packed >> (PART * i)) & ((1 << PART) - 1) for i in range(3)]
    return jnp.stack([jnp.sum(part.astype(jnp.int32)) for part in parts])


def _count(parts: list[jax.Array]) -> jax.Array:
    return sum((jnp.sum(part, dtype=jnp.int32) for part in parts), start=jnp.int32(0))


def _counts(groups: Groups) -> jax.Array:
    return jnp.stack([_count(group) for group in groups])


def _largest(groups: Groups, keep: jax.Array) -> Groups:
    """Bool vectors that hold for the largest keys of every group.

    Args:
      groups: G groups of uint32 vectors.
      keep: int32 ``[G]``: how many of each; ties go to the lowest index.
    """
    number = len(groups)

    def compare(fn: Callable[..., jax.Array], values: jax.Array) -> Groups:
        return [[fn(key, values[g]) for key in groups[g]] for g in range(number)]

    nothing = jnp.zeros(number, jnp.uint32)
    keep = jnp.minimum(keep, _counts(compare(jnp.greater, nothing)))
    threshold = _thresholds(groups, keep)
    above, tied = compare(jnp.greater, threshold), compare(jnp.equal, threshold)
    needed = keep - _counts(above)

    index = []
    for group in groups:
        ends = list(itertools.accumulate(key.size for key in group))
        starts = [0, *ends[:-1]]
        spans = zip(starts, ends, strict=True)
        index.append([jnp.arange(*span, dtype=jnp.uint32) for span in spans])
    bits = max(sum(key.size for key in group) for group in groups).bit_length()

    def first(cut: jax.Array) -> Groups:
        return [
            [tie & (i < cut[g]) for tie, i in zip(tied[g], index[g], strict=True)]
            for g in range(number)
        ]

    # Ties at the threshold are rare: without a surplus every one of them stays and
    # the second search makes no pass at all.
    surplus = _counts(tied) > needed
    cut = largest_true(
        lambda cut: _counts(first(cut)) <= needed,
        jnp.where(jnp.any(surplus), bits, 0),
        (number,),
    )
    cut = jnp.where(surplus, cut, jnp.uint32(0xFFFFFFFF))
    return [
        [more | tie for more, tie in zip(*pair, strict=True)]
        for pair in zip(above, first(cut), strict=True)
    ]


def prune(
    scores: Scores,
    sparsity: ArrayLike,
    *,
    scope: str = "global",
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
    keys = [_sort_keys(leaves[i], allowed[i]) for i in picked]
    result = [jnp.ones(jnp.shape(leaf), bool) for leaf in leaves]
    if picked:
        total = sum(key.size for key in keys)
        count = allocation.kept_count(total, sparsity)
        flat = _largest([keys], count[jnp.newaxis])[0]
        for i, mask in zip(picked, flat, strict=True):
            result[i] = mask.reshape(jnp.shape(leaves[i]))
    return jax.tree.unflatten(structure, result)


def leaf_counts(
    variables: Variables,
    sparsity: ArrayLike,
    *,
    scope: str = "layer",
    prunable: Prunable | None = None,
) -> PyTree:
    """How many entries every leaf keeps: a tree of int32 scalars.

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
        keys = [[_sort_keys(leaves[i], allowed[i])] for i in picked]
        keep = jnp.stack([jnp.asarray(wanted[i], jnp.int32) for i in picked])
        for i, (mask,) in zip(picked, _largest(keys, keep), strict=True):
            result[i] = mask.reshape(jnp.shape(leaves[i]))
    return jax.tree.unflatten(structure, result)


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

    def left(mask: jax.Array) -> jax.Array:
        kept = jnp.sum(mask, dtype=jnp.int32)
        return kept - jnp.floor(share * kept.astype(jnp.float32)).astype(jnp.int32)

    counts = jax.tree.map(left, masks)
    return keep_counts(scores, counts, within=masks, prunable=prunable)

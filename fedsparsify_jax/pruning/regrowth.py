"""Drop and grow: masks that keep as many entries in every leaf, but others.

The move of dynamic sparse training, leaf by leaf and without a sort. How many entries
move is a tree of numbers that may be traced: `selection.share_counts` of a share, which
`replaced_share` gives round by round.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.pruning.selection import keep_counts
from fedsparsify_jax.types import Decay, Masks, Prunable, PyTree, Schedule, Scores


def replaced_share(
    alpha: ArrayLike,
    *,
    interval: int,
    first: int,
    until: ArrayLike,
    decay: Decay,
    start: int = 1,
) -> Schedule:
    """Builds the share of the weights that round t replaces; 0 for no adjustment.

    Args:
      alpha: share in round ``start``.
      interval: A.
      first: round of the first adjustment.
      until: H, the rounds in which masks are adjusted.
      decay: ``"cosine"`` or ``"constant"``.
      start: round that the H rounds are counted from.

    Example:
      >>> share = replaced_share(0.5, interval=2, first=1, until=4, decay="cosine")
      >>> [round(float(share(t)), 3) for t in (1, 2, 3, 4, 5)]
      [0.5, 0.0, 0.25, 0.0, 0.0]
    """

    def share(t: ArrayLike) -> jax.Array:
        t = jnp.asarray(t)
        past = (t - start).astype(jnp.float32)
        now = (t >= first) & ((t - first) % interval == 0) & (past < until)
        cosine = alpha / 2 * (1 + jnp.cos(jnp.pi * past / until))
        return jnp.where(now, cosine if decay == "cosine" else alpha, 0.0)

    return share


def drop_and_grow(
    masks: Masks,
    drop: Scores,
    grow: Scores,
    counts: PyTree,
    *,
    again: bool = True,
    prunable: Prunable | None = None,
) -> Masks:
    """Drops k entries of every leaf and grows k others.

    The k smallest ``drop`` scores among the kept go, and the k largest ``grow`` scores
    among those then pruned come. Ties keep and grow the lowest index; NaN is the
    smallest score of all. If fewer than k can be dropped or grown, k is that number, so
    the result always keeps as many as ``masks``.

    Args:
      masks: what is kept.
      drop: scores of the kept, such as magnitudes; float tree of the same structure.
      grow: scores of the pruned, such as sizes of gradients; likewise.
      counts: k of every leaf: a tree of int32 scalars of the same structure.
      again: whether an entry that was just dropped may be grown, and so stay, as in
        RigL; if not, k entries change wherever there are as many pruned ones.
      prunable: path of a leaf to whether it may be pruned; others are kept whole.

    References:
      Evci et al., Rigging the Lottery (arXiv 1911.11134), section 3.

    Example:
      >>> kept = {"w": jnp.array([True, True, False, False])}
      >>> w, g = {"w": jnp.array([3.0, 1, 0, 0])}, {"w": jnp.array([0.0, 9, 4, 5])}
      >>> drop_and_grow(kept, w, g, {"w": 1})["w"].tolist()
      [True, True, False, False]
      >>> drop_and_grow(kept, w, g, {"w": 1}, again=False)["w"].tolist()
      [True, False, False, True]
    """
    pruned, total = jax.tree.map(jnp.logical_not, masks), _kept(masks)
    if not again:
        counts = jax.tree.map(jnp.minimum, counts, _kept(pruned))
    left = jax.tree.map(lambda n, k: n - jnp.clip(k, 0, n), total, counts)
    stay = keep_counts(drop, left, within=masks, prunable=prunable)
    if again:
        pruned = jax.tree.map(jnp.logical_not, stay)
    moved = jax.tree.map(jnp.subtract, total, left)
    grown = keep_counts(grow, moved, within=pruned, prunable=prunable)
    return jax.tree.map(jnp.logical_or, stay, grown)


def _kept(masks: Masks) -> PyTree:
    return jax.tree.map(lambda mask: jnp.sum(mask, dtype=jnp.int32), masks)

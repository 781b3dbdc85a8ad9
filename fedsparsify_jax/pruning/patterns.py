"""Patterns of what is pruned: single weights, N of every M, or whole channels.

Masks of a pattern are ordinary masks. Kernels are ``[*window, inputs, outputs]``, as
in Flax: M inputs in a row, of one place of the window and one output, share a count,
and all that leads to one output is a channel.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import trees
from fedsparsify_jax.masks import prunable_leaves
from fedsparsify_jax.pruning.selection import prune
from fedsparsify_jax.pruning.threshold import sort_keys
from fedsparsify_jax.types import Masks, Prunable, Scope, Scores, Variables

UNSTRUCTURED, CHANNEL = "unstructured", "channel"
MOST = 64
"""The largest M; a choice among M takes M passes over the model."""

Select = Callable[[Scores, ArrayLike, Masks | None], Masks]
"""``(scores, sparsity, masks that the result may not leave) -> masks``."""


class Groups(NamedTuple):
    """The pattern N:M."""

    kept: int  # N
    size: int  # M

    @property
    def sparsity(self) -> float:
        """Returns the share that it prunes."""
        return 1 - self.kept / self.size


def groups_of(pattern: str) -> Groups | None:
    """Returns N and M of a pattern's name; None for the other patterns.

    Raises:
      ValueError: if it is no pattern.

    Example:
      >>> groups_of("2:4"), groups_of("channel")
      (Groups(kept=2, size=4), None)
    """
    if pattern in (UNSTRUCTURED, CHANNEL):
        return None
    match = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", pattern)
    groups = Groups(kept=int(match[1]), size=int(match[2])) if match else Groups(1, 1)
    if not groups.kept < groups.size <= MOST:
        raise ValueError(
            f"pattern is {pattern!r}: it must be {UNSTRUCTURED}, {CHANNEL}, or N:M "
            f"such as 2:4, with N below M and M at most {MOST}"
        )
    return groups


def check(
    pattern: str, variables: Variables, *, prunable: Prunable | None = None
) -> None:
    """Checks that the kernels of a model divide into the groups of a pattern.

    Args:
      pattern: its name.
      variables: anything with the shapes of the variables.
      prunable: path of a leaf to whether it may be pruned; others need not divide.

    Raises:
      ValueError: one line that names the layer that does not.

    Example:
      >>> check("2:4", {"params": {"Conv_0": {"kernel": jnp.zeros((3, 3, 1, 8))}}})
      Traceback (most recent call last):
      ...
      ValueError: pattern 2:4 does not divide the inputs of layer Conv_0, which has 1: \
spare that layer
    """
    groups = groups_of(pattern)
    if groups is None:
        return
    for name, leaf in _kernels(variables, prunable).items():
        inputs = jnp.shape(leaf)[-2]
        if inputs % groups.size:
            raise ValueError(
                f"pattern {pattern} does not divide the inputs of layer "
                f"{_layer(name).partition('/')[2] or name}, which has {inputs}: spare "
                "that layer"
            )


def selector(
    pattern: str = UNSTRUCTURED,
    *,
    scope: Scope = "global",
    prunable: Prunable | None = None,
    spared: Iterable[str] = (),
    norms: Mapping[str, str] | None = None,
) -> Select:
    """Returns what chooses masks by scores under a pattern.

    Args:
      pattern: ``"unstructured"``, ``"channel"``, or N:M such as ``"2:4"``, which at
        the sparsity s keeps M - floor(s M) of every M inputs, but no fewer than N.
      scope: what shares a threshold, see `pruning.prune`; groups of M never do, and
        channels do not go by the rules that divide a budget.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      spared: paths of layers that keep all their channels, the output layer's above
        all, such as ``"params/Dense_2"``.
      norms: path of a layer to that of the norm behind it, see `channels`.

    Raises:
      ValueError: for an unknown pattern, or a scope that it has no use for.

    Example:
      >>> select = selector("1:2")
      >>> select({"kernel": jnp.array([[3.0], [1.0], [2.0], [4.0]])}, 0.5, None)
      {'kernel': Array([[ True],
             [False],
             [False],
             [ True]], dtype=bool)}
    """
    groups, spared = groups_of(pattern), frozenset(spared)
    if groups is not None and scope != "global":
        raise ValueError(
            f"scope is {scope}: with the pattern {pattern} every {groups.size} inputs "
            "have a count of their own"
        )
    if pattern == CHANNEL and scope not in ("global", "layer"):
        raise ValueError(
            f"scope is {scope}: channels are compared globally or layer by layer"
        )

    def select(scores: Scores, sparsity: ArrayLike, within: Masks | None) -> Masks:
        if groups is not None:
            check(pattern, scores, prunable=prunable)
            return n_of_m(scores, groups, sparsity, within=within, prunable=prunable)
        if pattern == CHANNEL:
            return channels(
                scores,
                sparsity,
                scope=scope,
                within=within,
                prunable=prunable,
                spared=spared,
                norms=norms,
            )
        return prune(scores, sparsity, scope=scope, within=within, prunable=prunable)

    return select


def n_of_m(
    scores: Scores,
    groups: Groups,
    sparsity: ArrayLike,
    *,
    within: Masks | None = None,
    prunable: Prunable | None = None,
) -> Masks:
    """Keeps the largest scores of every M inputs in a row.

    M - floor(s M) of them, but no fewer than N. Ties go to the lowest index and NaN is
    the first to go. Vectors are kept whole.

    Args:
      scores: float tree with the structure of the variables.
      groups: N and M, which divides the inputs of every kernel that may be pruned.
      sparsity: s in [0, 1]; may be traced.
      within: masks that the result may not leave.
      prunable: which leaves may be pruned.

    References:
      Zhou et al., Learning N:M Fine-grained Structured Sparse Neural Networks From
      Scratch (arXiv 2102.04010).
    """
    size = groups.size
    # Rounding of s = 1 - N/M must not keep one more.
    share = jnp.floor(jnp.asarray(sparsity, jnp.float32) * size + 1e-4)
    count = size - jnp.clip(share.astype(jnp.int32), 0, size - groups.kept)

    def kernel(score: jax.Array, allowed: jax.Array | None) -> jax.Array:
        *window, inputs, outputs = score.shape
        keys = sort_keys(score, allowed).reshape(*window, inputs // size, size, outputs)
        place = jnp.arange(size).reshape((1,) * (keys.ndim - 2) + (size, 1))
        rank = jnp.zeros(keys.shape, jnp.int32)
        for other in range(size):
            rival = keys[..., other : other + 1, :]
            rank += (rival > keys) | ((rival == keys) & (other < place))
        return ((rank < count) & (keys > 0)).reshape(score.shape)

    kept = _everything(scores)
    allowed = {} if within is None else dict(trees.named_leaves(within))
    for name, score in _kernels(scores, prunable).items():
        kept[name] = kernel(score, allowed.get(name))
    return trees.map_with_name(lambda name, _: kept[name], scores)


def channels(
    scores: Scores,
    sparsity: ArrayLike,
    *,
    scope: Scope = "global",
    within: Masks | None = None,
    prunable: Prunable | None = None,
    spared: Iterable[str] = (),
    norms: Mapping[str, str] | None = None,
) -> Masks:
    """Keeps the channels with the largest sums of scores, and prunes others whole.

    A channel, or unit, is what leads to one output of a layer: its part of the kernel,
    and its bias if that may be pruned. Of n channels n - floor(s n) stay, and the best
    of every layer whatever its sum. With squares for scores the sums have the order of
    l2 norms. The scale and shift that a norm behind the layer has for a channel do not
    count, but go with it: by its shift alone a channel of zeros would give a constant.
    Leaves of other layers are kept whole.

    Layers are compared by sums that are divided by the l2 norm of all sums of their
    layer: a channel of few weights would be the smallest of the network otherwise, and
    the first layer of an image network would go before all others.

    Args:
      scores: float tree with the structure of the variables.
      sparsity: s in [0, 1], of channels; may be traced.
      scope: ``"global"``, or ``"layer"`` for the share s of each layer's.
      within: masks that the result may not leave.
      prunable: which leaves may be pruned.
      spared: paths of layers that keep all their channels.
      norms: path of a layer to that of the norm that reads it.

    References:
      Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient
      Inference (arXiv 1611.06440), section 2.2, for the norm of a layer.

    Example:
      >>> kernel = jnp.array([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
      >>> layer = {"kernel": kernel, "bias": jnp.array([0.0, 0.0, 9.0])}
      >>> channels({"layer": layer}, 1 / 3)["layer"]["bias"].tolist()
      [True, False, True]
    """
    spared, members = frozenset(spared), {}
    leaves = dict(trees.named_leaves(scores))
    for name in _kernels(scores, prunable):
        if _layer(name) not in spared:
            width = leaves[name].shape[-1]
            vectors = _vectors(_layer(name), width, scores, prunable)
            members[name] = [name, *(v for v in vectors if _name(v) == "bias")]
    allowed = _everything(scores)
    if within is not None:
        allowed = dict(trees.named_leaves(within))

    units: dict[str, jax.Array] = {}
    alive: dict[str, jax.Array] = {}
    for name, parts in members.items():
        terms = [jnp.where(allowed[p], leaves[p], 0) for p in parts]
        sums = [jnp.sum(t.astype(jnp.float32), _others(t)) for t in terms]
        units[name] = functools.reduce(jnp.add, sums)
        some = [jnp.any(allowed[p], _others(allowed[p])) for p in parts]
        alive[name] = functools.reduce(jnp.logical_or, some)

    best = {}
    for name, unit in units.items():
        ranked = jnp.where(alive[name] & ~jnp.isnan(unit), unit, -jnp.inf)
        best[name] = jnp.arange(len(unit)) == jnp.argmax(ranked)
        units[name] = jnp.where(best[name], jnp.inf, _comparable(unit, alive[name]))
    kept = prune(units, sparsity, scope=scope, within=alive) if units else {}

    result = dict(allowed)
    for name, parts in members.items():
        stays = (kept[name] | best[name]) & alive[name]
        norm = (norms or {}).get(_layer(name))
        follow = _vectors(norm, len(stays), scores, prunable) if norm else []
        for part in (*parts, *follow):
            ones = (1,) * (leaves[part].ndim - 1)
            result[part] = allowed[part] & stays.reshape(*ones, -1)
    return trees.map_with_name(lambda name, _: result[name], scores)


def _comparable(unit: jax.Array, alive: jax.Array) -> jax.Array:
    """Returns the sums of a layer's units over the l2 norm of the living ones.

    Sums are divided by the largest first, so that no square is too large or small. NaN
    and infinity stay what they are, and do not count for the others.
    """
    alive = alive & jnp.isfinite(unit)
    largest = jnp.max(jnp.where(alive, jnp.abs(unit), 0))
    unit = unit / jnp.where(largest > 0, largest, 1)
    norm = jnp.sqrt(jnp.sum(jnp.where(alive, jnp.square(unit), 0)))
    return unit / jnp.where(norm > 0, norm, 1)


def _layer(name: str) -> str:
    """Returns the path of the layer of a leaf."""
    return name.rpartition("/")[0]


def _name(name: str) -> str:
    """Returns the name of a leaf in its layer."""
    return name.rpartition("/")[2]


def _everything(tree: Scores) -> dict[str, jax.Array]:
    named = trees.named_leaves(tree)
    return {name: jnp.ones(jnp.shape(leaf), bool) for name, leaf in named}


def _prunable(tree: Scores, prunable: Prunable | None) -> dict[str, bool]:
    return dict(trees.named_leaves(prunable_leaves(tree, prunable)))


def _kernels(tree: Scores, prunable: Prunable | None) -> dict[str, jax.Array]:
    """Returns the leaves of two dimensions or more that may be pruned."""
    may_go = _prunable(tree, prunable)
    return {
        name: leaf
        for name, leaf in trees.named_leaves(tree)
        if may_go[name] and len(jnp.shape(leaf)) >= 2
    }


def _vectors(
    layer: str, length: int, tree: Scores, prunable: Prunable | None
) -> list[str]:
    """Returns the paths of a layer's vectors of a length that may be pruned."""
    may_go = _prunable(tree, prunable)
    return [
        name
        for name, leaf in trees.named_leaves(tree)
        if _layer(name) == layer and may_go[name] and jnp.shape(leaf) == (length,)
    ]


def _others(leaf: jax.Array) -> tuple[int, ...]:
    """Returns all axes but that of the outputs."""
    return tuple(range(leaf.ndim - 1))

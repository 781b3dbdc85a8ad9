"""Pytree maths, over one tree or over trees stacked along a leading client axis."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.types import PyTree

Tree = TypeVar("Tree")


def align(vector: jax.Array, leaf: jax.Array) -> jax.Array:
    """Reshapes ``[K]`` to ``[K, 1, ...]`` so that it broadcasts against a leaf."""
    return vector.reshape(vector.shape + (1,) * (leaf.ndim - vector.ndim))


def leading_size(stacked: PyTree) -> int:
    """Returns the common length of the leading axis of every leaf.

    Raises:
      AssertionError: if the leaves disagree, or there is none.
    """
    leaves = jax.tree.leaves(stacked)
    if not leaves:
        raise AssertionError("a stacked tree needs at least one leaf")
    chex.assert_equal_shape_prefix(leaves, 1)
    return leaves[0].shape[0]


def take(stacked: Tree, index: ArrayLike) -> Tree:
    """Picks entries of the leading axis: ``[N, ...]`` to ``[K, ...]``."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def put(stacked: Tree, index: ArrayLike, values: Tree) -> Tree:
    """Writes ``values`` ``[K, ...]`` at ``index`` ``[K]`` into ``[N, ...]`` leaves."""
    return jax.tree.map(lambda old, new: old.at[index].set(new), stacked, values)


def repeat(tree: Tree, times: int) -> Tree:
    """Stacks ``times`` copies along a new leading axis."""
    return jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (times, *jnp.shape(leaf))), tree
    )


def where(condition: jax.Array, yes: Tree, no: Tree) -> Tree:
    """Chooses between two trees of the same structure by a bool scalar.

    >>> where(jnp.array(True), {"key": jax.random.key(1)}, {"key": jax.random.key(2)})
    {'key': Array((), dtype=key<fry>) overlaying:
    [0 1]}
    """
    (first, with_keys), (second, _) = hide_keys(yes), hide_keys(no)
    chex.assert_trees_all_equal_structs(yes, no)
    return with_keys(
        [jnp.where(condition, a, b) for a, b in zip(first, second, strict=True)]
    )


def cast_like(tree: Tree, like: Tree) -> Tree:
    """Converts every leaf to the dtype of the other tree's leaf.

    >>> cast_like({"w": jnp.ones(1, jnp.float16)}, {"w": jnp.zeros(1)})
    {'w': Array([1.], dtype=float32)}
    """

    def cast(leaf: jax.Array, other: jax.Array) -> jax.Array:
        return leaf if leaf.dtype == other.dtype else leaf.astype(other.dtype)

    return jax.tree.map(cast, tree, like)


def where_each(condition: jax.Array, yes: Tree, no: Tree) -> Tree:
    """Chooses between two stacked trees, client by client: bool ``[K]``."""
    return jax.tree.map(lambda a, b: jnp.where(align(condition, a), a, b), yes, no)


def hide_keys(tree: Tree) -> tuple[list[jax.Array], Callable[[Any], Tree]]:
    """Returns the leaves with keys as plain numbers, and the way back.

    JAX's checker takes keys that are sliced, looped over, or selected between branches
    for keys that are used twice. Plain numbers pass; inside the loop or the branch, the
    second result makes keys of them again.

    Args:
      tree: of arrays and keys.

    Returns:
      The leaves, and the function that makes the tree of such leaves.

    Example:
      >>> numbers, with_keys = hide_keys({"key": jax.random.key(7)})
      >>> numbers[0].tolist(), with_keys(numbers)["key"] == jax.random.key(7)
      ([0, 7], Array(True, dtype=bool))
    """
    leaves, structure = jax.tree.flatten(tree)
    impls = [
        jax.random.key_impl(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else None
        for leaf in leaves
    ]
    numbers = [
        leaf if impl is None else jax.random.key_data(leaf)
        for leaf, impl in zip(leaves, impls, strict=True)
    ]

    def with_keys(numbers: list[jax.Array]) -> Tree:
        wrapped = [
            leaf if impl is None else jax.random.wrap_key_data(leaf, impl=impl)
            for leaf, impl in zip(numbers, impls, strict=True)
        ]
        return jax.tree.unflatten(structure, wrapped)

    return numbers, with_keys


def size(tree: PyTree) -> int:
    """Counts the numbers of the tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shrinkage(tree: PyTree, norm: ArrayLike) -> jax.Array:
    """Returns the factor, at most 1, that brings a tree down to a Euclidean norm.

    It is NaN for a tree with NaN or infinity, and right for all others: squares are of
    multiples of the largest entry, so that they do not overflow.

    >>> shrinkage({"w": jnp.array([3e30, 4e30])}, 5e29)
    Array(0.1, dtype=float32)
    """
    leaves = jax.tree.leaves(tree)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    unit = jnp.where(largest > 0, largest, 1.0)
    square = sum(jnp.sum((leaf / unit) ** 2) for leaf in leaves)
    share = (norm / unit) / jnp.sqrt(jnp.maximum(square, 1e-30))
    return jnp.minimum(1.0, share)


def nonzeros(tree: PyTree) -> jax.Array:
    """Counts the numbers of the tree that are not zero: an int32 scalar."""
    counts = [jnp.sum(leaf != 0, dtype=jnp.int32) for leaf in jax.tree.leaves(tree)]
    return sum(counts, start=jnp.int32(0))


def _name(entry: Any) -> str:
    """Names one step of a path: the key of a dict, the field of a record, an index."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def named_leaves(tree: PyTree) -> Iterator[tuple[str, Any]]:
    """Pairs of ``"collection/module/leaf"`` paths and leaves, in tree order.

    >>> dict(named_leaves({"params": {"b": 1, "w": 2}}))
    {'params/b': 1, 'params/w': 2}
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield "/".join(_name(entry) for entry in path), leaf


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dicts with leaves at these paths, the inverse of `named_leaves`.

    >>> nested({"params/a/w": 1, "params/b": 2})
    {'params': {'a': {'w': 1}, 'b': 2}}
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        branch = tree
        for name in parents:
            branch = branch.setdefault(name, {})
        branch[last] = leaf
    return tree


def first_difference(wanted: PyTree, given: PyTree) -> tuple[str, Any, Any] | None:
    """Returns the first leaf that two trees have in different shapes, or one lacks.

    Args:
      wanted: arrays, or their shapes.
      given: the same.

    Returns:
      Its path and both shapes, None where there is no such leaf; None if all are alike.

    Example:
      >>> first_difference({"w": jnp.ones(2), "b": jnp.ones(1)}, {"b": jnp.ones(1)})
      ('w', (2,), None)
    """
    shapes = [
        {name: tuple(leaf.shape) for name, leaf in named_leaves(tree)}
        for tree in (wanted, given)
    ]
    for name in dict.fromkeys(name for tree in shapes for name in tree):
        one, other = (tree.get(name) for tree in shapes)
        if one != other:
            return name, one, other
    return None


def map_with_name(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Maps like ``jax.tree.map``, with the path of the leaf as first argument."""

    def call(path: tuple[Any, ...], *leaves: Any) -> Any:
        return fn("/".join(_name(entry) for entry in path), *leaves)

    return jax.tree_util.tree_map_with_path(call, tree, *rest)


def restricted(tree: PyTree, like: PyTree) -> PyTree:
    """Returns what nested dicts have in common with others.

    >>> restricted({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 0}})
    {'b': {'c': 2}}
    """
    if not isinstance(like, Mapping):
        return tree
    return {name: restricted(tree[name], branch) for name, branch in like.items()}


def joined(tree: PyTree, more: PyTree) -> PyTree:
    """Adds to nested dicts the leaves that only others have.

    >>> joined({"a": 1, "b": {"c": 2}}, {"b": {"c": 0, "d": 3}})
    {'a': 1, 'b': {'c': 2, 'd': 3}}
    """
    if not isinstance(tree, Mapping):
        return tree
    both = {name: joined(tree[name], more[name]) for name in tree if name in more}
    return {**tree, **{n: more[n] for n in more if n not in tree}, **both}


def weighted_sum(stacked: Tree, weights: jax.Array) -> Tree:
    """Sums ``weights[k] * leaf[k]`` over the client axis, in float32 at least.

    Clients of weight zero are left out altogether, so that not even their NaN
    reaches the sum.
    """

    def total(leaf: jax.Array) -> jax.Array:
        dtype = jnp.promote_types(leaf.dtype, jnp.float32)
        factor = align(weights, leaf).astype(dtype)
        return jnp.sum(jnp.where(factor > 0, factor * leaf.astype(dtype), 0), axis=0)

    return jax.tree.map(total, stacked)

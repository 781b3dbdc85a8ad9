"""Mask algebra: bool trees with exactly the structure of the variables.

True means kept. Leaves that may not be pruned stay all True, so a mask can be applied,
averaged or counted without knowing which leaves those are.
"""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.types import Masks, Prunable, PyTree, Variables


def prunable_leaves(tree: PyTree, prunable: Prunable | None = None) -> PyTree:
    """Returns which leaves may be pruned: a tree of Python bools.

    Args:
      tree: variables, masks or scores.
      prunable: path of a leaf to whether it may be pruned. By default everything in
        the collection ``params``, biases and norm scales included, as in FedSparsify;
        a tree without that collection counts as parameters throughout.

    Example:
      >>> prunable_leaves({"params": {"w": 1.0}, "batch_stats": {"mean": 0.0}})
      {'batch_stats': {'mean': False}, 'params': {'w': True}}
    """
    collections = isinstance(tree, Mapping) and "params" in tree

    def choose(name: str, _: object) -> bool:
        if prunable is not None:
            return bool(prunable(name))
        return not collections or name.split("/")[0] == "params"

    return trees.map_with_name(choose, tree)


# Last parts of the paths of vectors that shift or rescale, in Flax, Haiku, Keras and
# hand-written models, and of what transformers add to their tokens.
_NOT_KERNELS = frozenset(
    {"bias", "b", "scale", "offset", "beta", "gamma"}
    | {"position_embedding", "pos_embedding", "class_token", "cls"}
)


def kernels_only(name: str) -> bool:
    """Spares biases, norm parameters and learnt positions: a `types.Prunable`.

    It goes by the last part of the path, which is all that it is given: ``bias``,
    ``b``, ``scale``, ``offset``, ``beta`` and ``gamma`` are kept whole, in any case,
    and so are ``position_embedding``, ``pos_embedding``, ``class_token`` and ``cls``,
    which are added to tokens as a bias is, and all other collections. Word vectors,
    whose rows are read as those of a kernel, and recurrent kernels are prunable. For a
    model with other names pass a function of your own.

    Example:
      >>> variables = {"params": {"Dense_0": {"kernel": 0.0, "bias": 0.0}}}
      >>> prunable_leaves(variables, kernels_only)
      {'params': {'Dense_0': {'bias': False, 'kernel': True}}}
    """
    path = name.split("/")
    return path[0] == "params" and path[-1].lower() not in _NOT_KERNELS


def sparing(*layers: str, prunable: Prunable | None = None) -> Prunable:
    """Returns the rule of prunable leaves that keeps some layers whole.

    Args:
      layers: names that are a part of their paths, such as ``"Dense_0"``, or longer
        parts, such as ``"Block_0/Conv_1"``.
      prunable: rule for the others; all parameters by default.

    Example:
      >>> variables = {"params": {"Dense_0": {"kernel": 0}, "Dense_1": {"kernel": 0}}}
      >>> prunable_leaves(variables, sparing("Dense_0"))
      {'params': {'Dense_0': {'kernel': False}, 'Dense_1': {'kernel': True}}}
    """

    def rule(name: str) -> bool:
        if any(f"/{layer}/" in f"/{name}/" for layer in layers):
            return False
        return name.startswith("params/") if prunable is None else prunable(name)

    return rule


def ones_like(variables: Variables) -> Masks:
    """Returns the mask that keeps everything.

    >>> ones_like({"params": {"w": jnp.zeros(2)}})
    {'params': {'w': Array([ True,  True], dtype=bool)}}
    """
    return jax.tree.map(lambda leaf: jnp.ones(jnp.shape(leaf), bool), variables)


def apply(masks: Masks, variables: Variables) -> Variables:
    """Sets what the masks do not keep to exactly zero.

    >>> apply({"w": jnp.array([True, False])}, {"w": jnp.array([1.0, 2.0])})
    {'w': Array([1., 0.], dtype=float32)}
    """
    return jax.tree.map(
        lambda mask, leaf: jnp.where(mask, leaf, jnp.zeros_like(leaf)), masks, variables
    )


def holds(masks: Masks, variables: Variables) -> jax.Array:
    """Returns whether all that the masks do not keep is zero: bool scalar.

    >>> holds({"w": jnp.array([True, False])}, {"w": jnp.array([1.0, 2.0])})
    Array(False, dtype=bool)
    """
    inside = [
        jnp.all(mask | (leaf == 0))
        for mask, leaf in zip(
            jax.tree.leaves(masks), jax.tree.leaves(variables), strict=True
        )
    ]
    return jnp.all(jnp.stack(inside)) if inside else jnp.bool_(True)


def intersect(a: Masks, b: Masks) -> Masks:
    """Keeps what both keep."""
    return jax.tree.map(jnp.logical_and, a, b)


def kept(masks: Masks) -> dict[str, jax.Array]:
    """Counts the kept entries of every leaf: path to int32 scalar."""
    return {
        name: jnp.sum(mask, dtype=jnp.int32) for name, mask in trees.named_leaves(masks)
    }


def prunable_only(masks: Masks, prunable: Prunable | None = None) -> list[jax.Array]:
    """Returns the masks of the leaves that may be pruned, in tree order."""
    chosen = jax.tree.leaves(prunable_leaves(masks, prunable))
    leaves = jax.tree.leaves(masks)
    return [leaf for leaf, use in zip(leaves, chosen, strict=True) if use]


def sparsity(masks: Masks, prunable: Prunable | None = None) -> jax.Array:
    """Returns the pruned share of the prunable parameters: float32 scalar in [0, 1].

    >>> sparsity({"w": jnp.array([True, False, False, False])})
    Array(0.75, dtype=float32)
    """
    leaves = prunable_only(masks, prunable)
    total = trees.size(leaves)
    if total == 0:
        return jnp.float32(0)
    return (total - trees.nonzeros(leaves)).astype(jnp.float32) / total


def votes(stacked_masks: Masks, participating: jax.Array) -> PyTree:
    """Counts the participating clients that keep each entry: a tree of int32.

    Votes of parts of a cohort add up to those of the whole.

    >>> stacked = {"w": jnp.array([[True, False], [True, True]])}
    >>> votes(stacked, jnp.array([True, True]))
    {'w': Array([2, 1], dtype=int32)}
    """
    chex.assert_shape(participating, (trees.leading_size(stacked_masks),))

    def count(leaf: jax.Array) -> jax.Array:
        counted = leaf & trees.align(participating, leaf)
        return jnp.sum(counted, axis=0, dtype=jnp.int32)

    return jax.tree.map(count, stacked_masks)


def elect(counts: PyTree, voters: jax.Array, *, rule: str) -> Masks:
    """Masks from counted votes, by a rule of `majority_vote`.

    Args:
      counts: see `votes`.
      voters: int32 scalar: how many could have voted.
      rule: ``"authors"`` or ``"strict"``.
    """
    if rule not in ("authors", "strict"):
        raise ValueError(f"unknown vote rule {rule!r}: 'authors' or 'strict'")
    needed = voters // 2 if rule == "authors" else voters // 2 + 1
    return jax.tree.map(lambda count: count >= jnp.maximum(needed, 1), counts)


def majority_vote(
    stacked_masks: Masks,
    participating: jax.Array | None = None,
    *,
    rule: str = "authors",
) -> Masks:
    """Keeps what enough clients of the cohort keep.

    Args:
      stacked_masks: the clients' masks, every leaf ``[K, ...]``.
      participating: bool ``[K]``: whose votes count; everybody's by default.
      rule: with k participants, ``"authors"`` keeps at ``votes >= floor(k/2)``, so
        that a tie keeps and with 3 clients one vote is enough; ``"strict"`` keeps at
        ``votes > k/2``. Either way at least one vote is needed: the authors' code
        re-derives masks from non-zero weights, which has that effect for k = 1.

    Returns:
      The elected masks, without the client axis.

    References:
      Stripelis et al., FedSparsify (arXiv 2204.12430), FedSparsify-Local.

    Example:
      >>> votes = {"w": jnp.array([[True, True], [False, True], [False, False],
      ...                          [False, False]])}
      >>> majority_vote(votes)["w"], majority_vote(votes, rule="strict")["w"]
      (Array([False,  True], dtype=bool), Array([False, False], dtype=bool))
    """
    num_clients = trees.leading_size(stacked_masks)
    if participating is None:
        participating = jnp.ones(num_clients, bool)
    voters = jnp.sum(participating, dtype=jnp.int32)
    return elect(votes(stacked_masks, participating), voters, rule=rule)

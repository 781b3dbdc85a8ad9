"""Growth on the server by gradients that clients upload: FedTiny and FedRTS.

Layer l keeps c_l weights from the first round on. In rounds A, 2A, ... up to H a client
sends, of the pruned positions, the k_l with the largest gradient of one batch, taken
where its training ended.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.algorithms._shared.adjustment import Signal
from fedsparsify_jax.method import Client, Context, Local
from fedsparsify_jax.pruning.selection import keep_counts, magnitude
from fedsparsify_jax.types import Key, Masks, Prunable, PyTree

CountsFn = Callable[[Context, Client], PyTree]
"""The round and a client to k_l of every leaf: a tree of int32 scalars."""
ChooseFn = Callable[[Key, Local, Context, Client], tuple[PyTree, Masks]]
"""``(key, local, context, client) -> (gradients, positions that are sent)``."""


def check_interval(interval: int) -> None:
    """Refuses rounds between adjustments that are none.

    Raises:
      ValueError: for an interval below 1.
    """
    if interval < 1:
        raise ValueError(f"interval is {interval}: it must be at least 1 round")


def largest_pruned(
    gradients: PyTree, masks: Masks, counts: PyTree, prunable: Prunable | None
) -> Masks:
    """Chooses the largest gradients of every leaf at the positions that are pruned.

    Args:
      gradients: of all positions; structure of the variables.
      masks: what is kept, of which nothing is chosen.
      counts: k of every leaf, or as many as are pruned.
      prunable: path of a leaf to whether it may be pruned.

    Example:
      >>> w, g = jnp.array([5.0, 0, 0]), jnp.array([9.0, 1, -2])
      >>> largest_pruned({"w": g}, {"w": w != 0}, {"w": 1}, None)["w"].tolist()
      [False, False, True]
    """
    pruned = jax.tree.map(jnp.logical_not, masks)
    size = magnitude(gradients)
    chosen = keep_counts(size, counts, within=pruned, prunable=prunable)
    return mask_algebra.intersect(chosen, pruned)


def largest_in_adjustments(
    adjusts: Callable[[jax.Array], jax.Array],
    signal: Signal,
    counts: CountsFn,
    prunable: Prunable | None,
) -> ChooseFn:
    """Builds a client's choice in the rounds that adjust masks; no entry in others.

    Args:
      adjusts: a round to whether it adjusts masks.
      signal: a client's dense gradient.
      counts: k_l.
      prunable: path of a leaf to whether it may be pruned.
    """

    def choose(
        key: Key, local: Local, context: Context, client: Client
    ) -> tuple[PyTree, Masks]:
        numbers, with_keys = trees.hide_keys(key)

        def largest() -> tuple[PyTree, Masks]:
            gradients = signal(with_keys(numbers), local, client)
            k = counts(context, client)
            return gradients, largest_pruned(gradients, context.masks, k, prunable)

        def nothing() -> tuple[PyTree, Masks]:
            zeros = jax.tree.map(jnp.zeros_like, (local.variables, context.masks))
            return zeros[0], zeros[1]

        return jax.lax.cond(adjusts(context.round), largest, nothing)

    return choose


def count_bytes(chosen: Masks, each: int) -> jax.Array:
    """Counts the bytes of what is chosen, so many an entry: a uint32 scalar."""
    return trees.nonzeros(chosen).astype(jnp.uint32) * jnp.uint32(each)

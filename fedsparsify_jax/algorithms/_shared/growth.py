"""Growth on the server by gradients that clients upload: FedTiny and FedRTS.

Layer l keeps c_l weights from the first round on. In rounds A, 2A, ... up to H a client
sends, of the pruned positions, the k_l with the largest gradient of one batch, taken
where its training ended.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.algorithms._shared.client_scores import first_batch
from fedsparsify_jax.method import BatchLoss, Client, Context, Local, Setup, no_clients
from fedsparsify_jax.pruning.regrowth import replaced_share
from fedsparsify_jax.pruning.selection import keep_counts, leaf_counts, magnitude
from fedsparsify_jax.types import (
    Allocation,
    ClientData,
    Cohort,
    Key,
    Masks,
    Prunable,
    PyTree,
    Schedule,
    Variables,
)

CountsFn = Callable[[Context, Client], PyTree]
"""The round and a client to k_l of every leaf: a tree of int32 scalars."""
ChooseFn = Callable[[Key, Local, Context, Client], tuple[PyTree, Masks]]
"""``(key, local, context, client) -> (gradients, positions that are sent)``."""


def cosine_share(alpha: ArrayLike, until: ArrayLike) -> Schedule:
    """Builds ``alpha / 2 (1 + cos(pi t / H))`` of rounds t, 0 from H on.

    >>> share = cosine_share(0.2, until=4)
    >>> [round(float(share(t)), 3) for t in (1, 2, 4, 5)]
    [0.171, 0.1, 0.0, 0.0]
    """
    # Whose first round is the one that nothing has come before.
    share = replaced_share(alpha, interval=1, first=1, until=until, decay="cosine")
    return lambda t: share(jnp.asarray(t) + 1)


def adjusting_share(alpha: ArrayLike, *, interval: int, until: ArrayLike) -> Schedule:
    """Builds that share of rounds A, 2A, ... before H; 0 in the others.

    >>> share = adjusting_share(0.2, interval=2, until=4)
    >>> [round(float(share(t)), 3) for t in (1, 2, 3, 4, 6)]
    [0.0, 0.1, 0.0, 0.0, 0.0]
    """
    share = cosine_share(alpha, until)
    return lambda t: jnp.where(jnp.asarray(t) % interval == 0, share(t), 0.0)


def check_interval(interval: int) -> None:
    """Refuses rounds between adjustments that are none.

    Raises:
      ValueError: for an interval below 1.
    """
    if interval < 1:
        raise ValueError(f"interval is {interval}: it must be at least 1 round")


def largest_of_layers(allocation: Allocation, prunable: Prunable | None) -> Setup:
    """Builds the start that keeps the c_l largest weights of every layer."""

    def first_masks(
        key: Key, context: Context, clients: Cohort
    ) -> tuple[Variables, Masks]:
        del key, clients
        w = context.variables
        counts = leaf_counts(w, context.sparsity, scope=allocation, prunable=prunable)
        masks = keep_counts(magnitude(w), counts, prunable=prunable)
        return mask_algebra.apply(masks, w), masks

    return Setup(no_clients, first_masks)


def batch_gradients(
    loss: BatchLoss, size: int, key: Key, variables: Variables, data: ClientData
) -> PyTree:
    """Returns the dense gradient of one batch of a client, 0 beside its parameters."""
    batch_key, noise_key = jax.random.split(key)
    batch = first_batch(batch_key, data, size)

    def value(params: PyTree) -> jax.Array:
        return loss(variables | {"params": params}, batch, noise_key)[0]

    zeros = jax.tree.map(jnp.zeros_like, variables)
    return zeros | {"params": jax.grad(value)(variables["params"])}


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
    loss: BatchLoss,
    size: int,
    counts: CountsFn,
    prunable: Prunable | None,
) -> ChooseFn:
    """Builds a client's choice in the rounds that adjust masks; no entry in others.

    Args:
      adjusts: a round to whether it adjusts masks.
      loss: of a batch.
      size: of the batch.
      counts: k_l.
      prunable: path of a leaf to whether it may be pruned.
    """

    def choose(
        key: Key, local: Local, context: Context, client: Client
    ) -> tuple[PyTree, Masks]:
        numbers, with_keys = trees.hide_keys(key)

        def largest() -> tuple[PyTree, Masks]:
            w, data = local.variables, client.data
            g = batch_gradients(loss, size, with_keys(numbers), w, data)
            k = counts(context, client)
            return g, largest_pruned(g, context.masks, k, prunable)

        def nothing() -> tuple[PyTree, Masks]:
            zeros = jax.tree.map(jnp.zeros_like, (local.variables, context.masks))
            return zeros[0], zeros[1]

        return jax.lax.cond(adjusts(context.round), largest, nothing)

    return choose


def count_bytes(chosen: Masks, each: int) -> jax.Array:
    """Counts the bytes of what is chosen, so many an entry: a uint32 scalar."""
    return trees.nonzeros(chosen).astype(jnp.uint32) * jnp.uint32(each)

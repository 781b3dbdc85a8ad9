"""Dynamic sparse training: first masks of every layer's size, and their adjustment.

Layers keep as many weights as their budget says from the first round to the last. What
is kept changes: on the server, or with every client, whose masks are then merged to
their union and pruned back.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.aggregation import means
from fedsparsify_jax.algorithms._shared.client_scores import first_batch
from fedsparsify_jax.method import (
    Aggregate,
    BatchLoss,
    Client,
    Context,
    Local,
    PruneFn,
    Setup,
    Uploads,
    no_clients,
)
from fedsparsify_jax.pruning import saliency
from fedsparsify_jax.pruning.regrowth import drop_and_grow
from fedsparsify_jax.pruning.selection import (
    keep_counts,
    leaf_counts,
    magnitude,
    share_counts,
)
from fedsparsify_jax.types import (
    Allocation,
    Cohort,
    FirstMasks,
    Key,
    Masks,
    Prunable,
    PyTree,
    Schedule,
    Scores,
    Variables,
)

CountsFn = Callable[[Variables, Context], PyTree]
"""A model and the context to the entries c_l that every leaf keeps."""
Signal = Callable[[Key, Local, Client], PyTree]
"""What a client grows by, of all positions: a tree of the variables' structure."""


def budgets(allocation: Allocation, prunable: Prunable | None) -> CountsFn:
    """Builds the counts c_l of a rule that divides the round's sparsity."""

    def counts(variables: Variables, context: Context) -> PyTree:
        return leaf_counts(
            variables, context.sparsity, scope=allocation, prunable=prunable
        )

    return counts


def first_masks(kind: FirstMasks, counts: CountsFn, prunable: Prunable | None) -> Setup:
    """Builds the first masks: the largest weights of every layer, or random ones."""

    def masks(key: Key, context: Context, clients: Cohort) -> tuple[Variables, Masks]:
        variables = context.variables
        scores = magnitude(variables)
        if kind == "random":
            scores = saliency.random(key, variables)
        masks = keep_counts(scores, counts(variables, context), prunable=prunable)
        return mask_algebra.apply(masks, variables), masks

    return Setup(no_clients, masks)


def dense_gradient(loss: BatchLoss, batch_size: int) -> Signal:
    """Builds the gradient at a client's model of one batch, drawn for it.

    It has the pruned positions as well, and zeros beside ``params``.
    """

    def gradient(key: Key, local: Local, client: Client) -> PyTree:
        batch_key, noise_key = jax.random.split(key)
        batch = first_batch(batch_key, client.data, batch_size)

        def value(params: PyTree) -> jax.Array:
            variables = local.variables | {"params": params}
            return loss(variables, batch, noise_key)[0]

        zeros = jax.tree.map(jnp.zeros_like, local.variables)
        return zeros | {"params": jax.grad(value)(local.variables["params"])}

    return gradient


def adjusted_by_clients(
    signal: Signal, share: Schedule, prunable: Prunable | None
) -> PruneFn:
    """Builds a client's drop by magnitude and growth by the size of a signal.

    Args:
      signal: of the client; computed in rounds that adjust alone.
      share: t to the share of each layer's kept weights that is replaced; 0 for none.
      prunable: which leaves may be pruned.
    """

    def adjust(key: Key, local: Local, context: Context, client: Client) -> Masks:
        numbers, with_keys = trees.hide_keys(key)
        alpha = jnp.asarray(share(context.round))

        def adjusted() -> Masks:
            grow = signal(with_keys(numbers), local, client)
            counts = share_counts(local.masks, alpha)
            drop = magnitude(local.variables)
            return drop_and_grow(
                local.masks, drop, magnitude(grow), counts, prunable=prunable
            )

        return jax.lax.cond(alpha > 0, adjusted, lambda: local.masks)

    return adjust


def prune_union(
    variables: Variables,
    votes: Scores,
    counts: PyTree,
    *,
    prunable: Prunable | None = None,
) -> Masks:
    """Keeps the largest weights that have votes; equal ones by votes, then by index.

    Args:
      variables: the merged model.
      votes: the weights of the clients that keep each entry, added up.
      counts: entries to keep of every leaf, int32 scalars.
      prunable: path of a leaf to whether it may be pruned.

    Example:
      Two clients grew the last entry and one the last but two, all at weight zero:

      >>> w, votes = jnp.array([5.0, 4.0, 0, 0, 0, 0]), jnp.array([3, 3, 0, 1, 0, 2.0])
      >>> prune_union({"w": w}, {"w": votes}, {"w": 3})["w"].tolist()
      [True, True, False, False, False, True]
    """
    scores = magnitude(variables)
    union = jax.tree.map(lambda v: v > 0, votes)
    kept = keep_counts(scores, counts, within=union, prunable=prunable)
    last = jax.tree.map(lambda k, s: jnp.min(s, where=k, initial=jnp.inf), kept, scores)
    above = jax.tree.map(lambda k, s, least: k & (s > least), kept, scores, last)
    equal = jax.tree.map(lambda u, s, least: u & (s == least), union, scores, last)
    left = jax.tree.map(lambda c, a: c - jnp.sum(a, dtype=jnp.int32), counts, above)
    elected = keep_counts(votes, left, within=equal, prunable=prunable)
    return jax.tree.map(jnp.logical_or, above, elected)


def union_of_clients(counts: CountsFn, prunable: Prunable | None) -> Aggregate:
    """Builds the mean over the holders of each entry, its union pruned back."""

    def sums(uploads: Uploads, context: Context) -> means.Sums:
        return means.nonzero_sums(uploads.variables, uploads.masks, uploads.shares)

    def merge(
        sums: means.Sums, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks]:
        mean = means.mean(sums, like=context.variables)
        kept = counts(mean, context)
        masks = prune_union(mean, sums.weight, kept, prunable=prunable)
        return mask_algebra.apply(masks, mean), masks

    return Aggregate(sums=sums, merge=merge)


def check_name(argument: str, name: str, names: tuple[str, ...]) -> None:
    """Refuses a name that is none of those allowed.

    Raises:
      ValueError: naming the argument and what it may be.
    """
    if name not in names:
        quoted = " or ".join(map(repr, names))
        raise ValueError(f"unknown {argument} {name!r}: {quoted}")


def whole_epochs(epochs: float) -> int:
    """Returns the local epochs of an algorithm that changes masks between them.

    Raises:
      ValueError: for a fraction of one.
    """
    if epochs != int(epochs):
        raise ValueError(f"local_epochs is {epochs}: it must be a whole number")
    return int(epochs)


def check_timing(interval: int, adjust_after: int, epochs: int) -> None:
    """Refuses an interval of no rounds, and epochs that a client does not make.

    Raises:
      ValueError: naming the number and what it may be.
    """
    if interval < 1:
        raise ValueError(f"interval is {interval}: it must be at least 1 round")
    if not 0 <= adjust_after <= epochs:
        raise ValueError(
            f"adjust_after is {adjust_after}: it must be from 0 to local_epochs, "
            f"{epochs}"
        )

"""What SNIP, GraSP and SynFlow share: one mask before round 1, kept to the end."""

import functools
from collections.abc import Callable

import jax
from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import shared_masks
from fedsparsify_jax.algorithms._shared.client_scores import (
    first_batch,
    score_clients,
    scoring_clients,
)
from fedsparsify_jax.engine.round import EngineOptions, option
from fedsparsify_jax.masks import apply, intersect, prunable_leaves
from fedsparsify_jax.method import Context, Method
from fedsparsify_jax.pruning.saliency import Loss
from fedsparsify_jax.pruning.selection import prune
from fedsparsify_jax.training.local import batch_loss
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    Key,
    Masks,
    Prunable,
    Scores,
    Variables,
)

Setup = Callable[[Key, Context, ClientData], tuple[Variables, Masks]]


def nonzero(variables: Variables, prunable: Prunable | None) -> Masks:
    """The authors' working mask, ``w != 0``, of the prunable leaves."""
    chosen = prunable_leaves(variables, prunable)
    return jax.tree.map(lambda use, w: (w != 0) | (not use), chosen, variables)


def fixed_masks(
    find: Callable[[Key, Context, ClientData], Masks],
    *,
    scouts: Callable[[Key, jax.Array], jax.Array],
    final_sparsity: ArrayLike,
    prunable: Prunable | None,
    merge: str | ValueMerge,
) -> Method:
    """The method that trains under the masks found before the first round.

    Args:
      find: ``(key, context, data [P, M, ...]) -> masks``.
      scouts: ``(key, count [N]) -> ids [P]``, the clients whose data `find` is given.
      final_sparsity: S.
      prunable: see `masks.prunable_leaves`.
      merge: a name of `merges.VALUES` or a function of that signature.
    """

    def setup(
        key: Key, context: Context, clients: ClientData
    ) -> tuple[Variables, Masks]:
        masks = find(key, context, clients)
        return apply(masks, context.variables), masks

    return Method(
        schedule=schedules.constant(final_sparsity),
        setup=setup,
        scouts=scouts,
        aggregate=shared_masks(merge),
        prunable=prunable,
    )


def by_gradients(
    apply_fn: ApplyFn,
    saliency: Callable[[Loss, Variables], Scores],
    *,
    source: str,
    score_batch_size: int | None,
    temperature: ArrayLike,
    final_sparsity: ArrayLike,
    scope: str,
    prunable: Prunable | None,
    freeze_zero_initialized: bool,
    merge: str | ValueMerge,
    options: EngineOptions,
) -> Method:
    """The method that keeps the largest scores of a loss on clients' batches."""
    if source not in ("client", "cohort"):
        raise ValueError(f"unknown source {source!r}: 'client' or 'cohort'")
    loss_fn = option(options, "loss_fn")
    size = score_batch_size or option(options, "batch_size")

    def scaled_loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return loss_fn(outputs / temperature, y)

    loss = batch_loss(apply_fn, scaled_loss)

    def find(key: Key, context: Context, clients: ClientData) -> Masks:
        def score(key: Key, data: ClientData) -> Scores:
            batch_key, noise_key = jax.random.split(key)
            batch = first_batch(batch_key, data, size)
            return saliency(
                lambda variables: loss(variables, batch, noise_key)[0],
                context.variables,
            )

        assert context.scouts is not None
        scores = score_clients(key, context.scouts, clients, score, source=source)
        masks = prune(scores, context.sparsity, scope=scope, prunable=prunable)
        if freeze_zero_initialized:
            masks = intersect(masks, nonzero(context.variables, prunable))
        return masks

    scouts = functools.partial(
        scoring_clients, source=source, participation=option(options, "participation")
    )
    return fixed_masks(
        find,
        scouts=scouts,
        final_sparsity=final_sparsity,
        prunable=prunable,
        merge=merge,
    )

"""One mask before round 1, kept to the end: SNIP, GraSP and SynFlow."""

import functools
from collections.abc import Callable
from typing import get_args

import jax
from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.client_scores import (
    balanced_batch,
    first_batch,
    score_clients,
    scoring_clients,
)
from fedsparsify_jax.engine import EngineOptions, resolve
from fedsparsify_jax.masks import apply, intersect, prunable_leaves
from fedsparsify_jax.method import Context, Method, Setup
from fedsparsify_jax.pruning.saliency import Loss
from fedsparsify_jax.pruning.selection import prune
from fedsparsify_jax.training.local import batch_loss
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    Cohort,
    Key,
    Masks,
    Prunable,
    Scope,
    Scores,
    Source,
    Variables,
)


def nonzero(variables: Variables, prunable: Prunable | None) -> Masks:
    """Returns the authors' working mask, ``w != 0``, of the prunable leaves."""
    chosen = prunable_leaves(variables, prunable)
    return jax.tree.map(lambda use, w: (w != 0) | (not use), chosen, variables)


def fixed_masks(
    find: Callable[[Key, Context, Cohort], Masks],
    *,
    clients: Callable[[Key, jax.Array], jax.Array],
    final_sparsity: ArrayLike,
    prunable: Prunable | None,
    merge: str | ValueMerge,
) -> Method:
    """Builds the method that trains under masks chosen before the first round.

    Args:
      find: ``(key, context, clients [P]) -> masks``.
      clients: ``(key, sizes [N]) -> ids [P]``, the clients that ``find`` is given.
      final_sparsity: S.
      prunable: see `masks.prunable_leaves`.
      merge: a name of `merges.NAMES` or a function of that signature.
    """

    def first_masks(
        key: Key, context: Context, clients: Cohort
    ) -> tuple[Variables, Masks]:
        masks = find(key, context, clients)
        return apply(masks, context.variables), masks

    return Method(
        schedule=schedules.constant(final_sparsity),
        setup=Setup(clients, first_masks),
        aggregate=aggregate(merge),
        prunable=prunable,
    )


def by_gradients(
    apply_fn: ApplyFn,
    saliency: Callable[[Loss, Variables], Scores],
    *,
    source: Source,
    score_batch_size: int | None,
    temperature: ArrayLike,
    per_class: int | None = None,
    by_examples: bool = False,
    final_sparsity: ArrayLike,
    scope: Scope,
    prunable: Prunable | None,
    freeze_zero_initialized: bool,
    merge: str | ValueMerge,
    options: EngineOptions,
) -> Method:
    """Builds the method that keeps the largest scores of a loss on clients' batches."""
    if source not in get_args(Source):
        raise ValueError(f"unknown source {source!r}: 'client' or 'cohort'")
    resolved = resolve(options)
    size = score_batch_size or resolved.batch_size

    def scaled_loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return resolved.loss_fn(outputs / temperature, y)

    loss = batch_loss(apply_fn, scaled_loss)

    def find(key: Key, context: Context, clients: Cohort) -> Masks:
        def score(key: Key, data: ClientData) -> Scores:
            batch_key, noise_key = jax.random.split(key)
            if per_class is None:
                batch = first_batch(batch_key, data, size)
            else:
                outputs, _ = jax.eval_shape(apply_fn, context.variables, data.x[:1])
                classes = outputs.shape[-1]
                batch = balanced_batch(batch_key, data, per_class, classes)
            return saliency(
                lambda variables: loss(variables, batch, noise_key)[0],
                context.variables,
            )

        scores = score_clients(
            key, clients, score, source=source, by_examples=by_examples
        )
        masks = prune(scores, context.sparsity, scope=scope, prunable=prunable)
        if freeze_zero_initialized:
            masks = intersect(masks, nonzero(context.variables, prunable))
        return masks

    clients = functools.partial(
        scoring_clients, source=source, participation=resolved.participation
    )
    return fixed_masks(
        find,
        clients=clients,
        final_sparsity=final_sparsity,
        prunable=prunable,
        merge=merge,
    )

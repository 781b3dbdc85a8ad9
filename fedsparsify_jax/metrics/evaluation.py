"""Evaluation of a model on a central test set, jittable and in batches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedsparsify_jax.client_map import ClientMap, chunked
from fedsparsify_jax.training.losses import correct, example_losses
from fedsparsify_jax.types import ApplyFn, Examples, LossFn, Variables

MetricFn = Callable[[jax.Array, jax.Array], jax.Array]
"""Outputs ``[B, ...]`` and targets ``[B, ...]`` to one number an example ``[B]``."""


class Evaluation(NamedTuple):
    """Means over a test set."""

    loss: jax.Array  # float32 scalar
    metric: jax.Array  # float32 scalar: accuracy in [0, 1], or another measure


def evaluate(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    variables: Variables,
    examples: Examples,
    *,
    metric_fn: MetricFn = correct,
    batch_size: int = 1000,
    batches: ClientMap | None = None,
) -> Evaluation:
    """Computes a model's mean loss and accuracy (or another measure) over all examples.

    The last short batch is filled with repeats that are not counted, so the result
    does not depend on ``batch_size`` (up to the rounding of sums).

    Args:
      apply_fn: the model's forward pass; called with ``train=False``.
      loss_fn: outputs and targets to a loss an example.
      variables: the model to evaluate.
      examples: x ``[n, ...]`` and y ``[n]``.
      metric_fn: outputs and targets to one number an example; by default whether the
        class is right.
      batch_size: examples computed at a time.
      batches: how the batches are run, as a cohort is; one after another by default.
        ``sharded(mesh, chunked(1))`` divides them over the devices of a mesh.

    Example:
      >>> identity = lambda variables, x, **_: (x, {})
      >>> perfect = Examples(10 * jnp.eye(3), jnp.arange(3))
      >>> loss = lambda outputs, y: -outputs[jnp.arange(len(y)), y]
      >>> evaluate(identity, loss, {}, perfect, batch_size=2)
      Evaluation(loss=Array(-10., dtype=float32), metric=Array(1., dtype=float32))
    """
    # Batches by number; the last one is filled with its last example.
    total = examples.y.shape[0]
    batch_size = min(batch_size, total)
    run_batches = batches or chunked(1)

    def batch(
        shared: tuple[Variables, Examples], number: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        variables, examples = shared
        index = number * batch_size + jnp.arange(batch_size)
        valid = index < total
        index = jnp.minimum(index, total - 1)
        x, y = examples.x[index], examples.y[index]
        outputs, _ = apply_fn(variables, x)
        losses = jnp.where(valid, example_losses(loss_fn, outputs, y), 0.0)
        measured = jnp.where(valid, metric_fn(outputs, y), 0.0)
        return jnp.sum(losses), jnp.sum(measured)

    shared = (variables, Examples(jnp.asarray(examples.x), jnp.asarray(examples.y)))
    numbers = jnp.arange(-(-total // batch_size))
    _, (losses, measured) = run_batches(batch, shared, numbers)
    return Evaluation(jnp.sum(losses) / total, jnp.sum(measured) / total)

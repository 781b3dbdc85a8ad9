"""Evaluation of a model on a central test set, jittable and in batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedsparsify_jax.types import ApplyFn, Examples, LossFn, Variables


class Evaluation(NamedTuple):
    """Means over a test set."""

    loss: jax.Array  # float32 scalar
    accuracy: jax.Array  # float32 scalar in [0, 1]


def evaluate(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    variables: Variables,
    examples: Examples,
    *,
    batch_size: int = 1000,
) -> Evaluation:
    """Mean loss and accuracy of a classifier over all examples.

    The last short batch is filled with repeats that are not counted, so the result
    does not depend on ``batch_size`` (up to the rounding of sums).

    Args:
      apply_fn: the model's forward pass; called with ``train=False``.
      loss_fn: outputs and targets to a loss an example.
      variables: the model to evaluate.
      examples: x ``[n, ...]`` and y ``[n]``.
      batch_size: examples computed at a time.

    Example:
      >>> identity = lambda variables, x, **_: (x, {})
      >>> perfect = Examples(10 * jnp.eye(3), jnp.arange(3))
      >>> loss = lambda outputs, y: -outputs[jnp.arange(len(y)), y]
      >>> evaluate(identity, loss, {}, perfect, batch_size=2)
      Evaluation(loss=Array(-10., dtype=float32), accuracy=Array(1., dtype=float32))
    """
    total = examples.y.shape[0]
    batch_size = min(batch_size, total)
    batches = -(-total // batch_size)

    def batch(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        index = number * batch_size + jnp.arange(batch_size)
        valid = index < total
        index = jnp.minimum(index, total - 1)
        x, y = examples.x[index], examples.y[index]
        outputs, _ = apply_fn(variables, x)
        losses = jnp.where(valid, loss_fn(outputs, y), 0.0)
        hits = valid & (jnp.argmax(outputs, axis=-1) == y)
        return jnp.sum(losses), jnp.sum(hits, dtype=jnp.int32)

    losses, hits = jax.lax.map(batch, jnp.arange(batches))
    return Evaluation(jnp.sum(losses) / total, jnp.sum(hits) / total)

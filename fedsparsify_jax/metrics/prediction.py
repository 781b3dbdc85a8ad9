"""Outputs of a model, an example each, jittable and in batches."""

import math

import jax
import jax.numpy as jnp

from fedsparsify_jax.client_map import ClientMap, chunked
from fedsparsify_jax.types import ApplyFn, Variables


def examples_at_once(shape: tuple[int, ...]) -> int:
    """Returns a batch size for passes without gradients: 1000, or 2^18 inputs.

    Args:
      shape: of an example.

    Example:
      >>> examples_at_once((28, 28)), examples_at_once((91, 109, 91))
      (334, 1)
    """
    return max(1, min(1000, 2**18 // math.prod(shape)))


def outputs_of(
    apply_fn: ApplyFn,
    variables: Variables,
    x: jax.Array,
    *,
    batch_size: int = 1000,
    batches: ClientMap | None = None,
) -> jax.Array:
    """Computes a model's outputs of all examples: ``[n, ...]``.

    Args:
      apply_fn: the model's forward pass; called with ``train=False``.
      variables: the model.
      x: ``[n, ...]``.
      batch_size: examples computed at a time.
      batches: how the batches are run; one after another by default.

    Example:
      >>> double = lambda variables, x, **_: (2 * x, {})
      >>> outputs_of(double, {}, jnp.arange(3.0)[:, None], batch_size=2).tolist()
      [[0.0], [2.0], [4.0]]
    """
    total = x.shape[0]
    batch_size = min(batch_size, total)
    run_batches = batches or chunked(1)

    def batch(shared: tuple[Variables, jax.Array], number: jax.Array) -> jax.Array:
        # The last one is filled with its last example.
        index = number * batch_size + jnp.arange(batch_size)
        outputs, _ = apply_fn(shared[0], shared[1][jnp.minimum(index, total - 1)])
        return outputs

    numbers = jnp.arange(-(-total // batch_size))
    _, outputs = run_batches(batch, (variables, jnp.asarray(x)), numbers)
    return outputs.reshape(-1, *outputs.shape[2:])[:total]

"""The kinds of problem: their losses, and the measures that people read."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import LossFn


def cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Cross-entropy of logits ``[B, C]`` and class indices ``[B]``: ``[B]``.

    It is NaN for labels that are not in ``0 .. C - 1``.

    Raises:
      InputError: for targets that are no class indices, or outputs that are no logits.

    Example:
      >>> cross_entropy(jnp.zeros((1, 2)), jnp.array([0])).round(4)
      Array([0.6931], dtype=float32)
    """
    shape, dtype = jnp.shape(y), jnp.result_type(y)
    if not jnp.issubdtype(dtype, jnp.integer) or len(shape) > 1:
        raise InputError(
            f"targets have shape {list(shape)} and dtype {dtype}: cross_entropy, the "
            "default loss_fn, takes integer classes [B]; use the argmax of one-hot "
            "labels, or another loss_fn for numbers"
        )
    if jnp.ndim(outputs) != len(shape) + 1:
        raise InputError(
            f"outputs have shape {list(jnp.shape(outputs))}: cross_entropy, the "
            "default loss_fn, takes logits [B, C]"
        )
    if jnp.issubdtype(dtype, jnp.signedinteger):
        # Indices below zero would count from the end.
        y = jnp.where(y < 0, jnp.iinfo(jnp.int32).max, y.astype(jnp.int32))
    return optax.softmax_cross_entropy_with_integer_labels(outputs, y)


def correct(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Returns whether the largest logit is the class's: float32 ``[B]`` of 0 and 1.

    >>> correct(jnp.array([[0.0, 2.0], [0.0, 2.0]]), jnp.array([1, 0]))
    Array([1., 0.], dtype=float32)
    """
    return (jnp.argmax(outputs, axis=-1) == y).astype(jnp.float32)


def _error(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return outputs.reshape(y.shape) - y


def squared_error(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the squared error of answers ``[B]`` or ``[B, 1]`` and targets: ``[B]``.

    >>> squared_error(jnp.array([[3.0]]), jnp.array([1.0]))
    Array([4.], dtype=float32)
    """
    return jnp.square(_error(outputs, y))


def absolute_error(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the absolute error of answers ``[B]`` or ``[B, 1]`` and targets: ``[B]``.

    >>> absolute_error(jnp.array([[3.0]]), jnp.array([4.0]))
    Array([1.], dtype=float32)
    """
    return jnp.abs(_error(outputs, y))


def example_losses(loss_fn: LossFn, outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Computes the losses of a batch and checks, when it is traced, that there is one
    an example: ``[B]``.

    Raises:
      InputError: naming the shape and dtype of the loss, and the right ones.
    """
    losses = loss_fn(outputs, y)
    batch = jnp.shape(y)[:1]
    shapes = [getattr(leaf, "shape", None) for leaf in (outputs, y)]
    if not hasattr(losses, "dtype") or losses.shape != batch:
        shape = list(jnp.shape(losses)) if hasattr(losses, "dtype") else type(losses)
        raise InputError(
            f"loss_fn returns shape {shape} for outputs {shapes[0]} and targets "
            f"{shapes[1]}: it must return one loss an example, [B] = {list(batch)}"
        )
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise InputError(f"loss_fn returns {losses.dtype}: losses must be floats")
    return losses


class Task(NamedTuple):
    """A kind of task."""

    loss_fn: LossFn
    metric_fn: Callable[[jax.Array, jax.Array], jax.Array]  # one number an example
    metric: str  # its name in metrics.jsonl, after "test_"
    higher_is_better: bool


TASKS = {
    "classification": Task(cross_entropy, correct, "accuracy", True),
    "regression": Task(squared_error, absolute_error, "mae", False),
}
"""Tasks by the name that a data set gives."""

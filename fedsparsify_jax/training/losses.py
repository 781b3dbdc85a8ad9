"""What a model is trained for: its loss, and the measure people read."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedsparsify_jax.types import LossFn


def cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Cross-entropy of logits ``[B, C]`` and class indices ``[B]``: ``[B]``.

    >>> cross_entropy(jnp.zeros((1, 2)), jnp.array([0])).round(4)
    Array([0.6931], dtype=float32)
    """
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

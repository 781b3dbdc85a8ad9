"""Losses of a network that learns from the answers of another one."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def soft_labels(outputs: jax.Array, temperature: ArrayLike = 1.0) -> jax.Array:
    """Returns a teacher's answers as shares of the classes, without a gradient.

    Args:
      outputs: its logits ``[B, C]``.
      temperature: T, their divisor; may be traced.

    Example:
      >>> soft_labels(jnp.array([[2.0, 2.0]]), 4.0)
      Array([[0.5, 0.5]], dtype=float32)
    """
    return jax.nn.softmax(jax.lax.stop_gradient(outputs) / temperature)


def divergence(shares: jax.Array, outputs: jax.Array) -> jax.Array:
    """Computes KL(shares || softmax(outputs)) of every example: ``[B]``.

    Args:
      shares: of the classes, ``[B, C]``, see `soft_labels`.
      outputs: the student's logits ``[B, C]``.

    Example:
      >>> divergence(jnp.array([[1.0, 0.0]]), jnp.zeros((1, 2))).round(4)
      Array([0.6931], dtype=float32)
    """
    return based_divergence(shares, outputs, 1.0)


def based_divergence(
    shares: jax.Array, outputs: jax.Array, divisor: ArrayLike
) -> jax.Array:
    """Computes ``sum_c p_c (ln p_c - log_softmax(z)_c / divisor)``: ``[B]``.

    A divisor of the logarithm is another base of it. The gradient with respect to z is
    ``(softmax(z) - p) / divisor``.

    Args:
      shares: p, ``[B, C]``.
      outputs: z, ``[B, C]``.
      divisor: above 0; may be traced.
    """
    logs = jax.nn.log_softmax(outputs)
    # 0 log 0 is 0.
    own = jnp.log(jnp.where(shares > 0, shares, 1.0))
    return jnp.sum(shares * (own - logs / divisor), axis=-1)

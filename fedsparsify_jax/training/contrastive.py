"""The contrastive loss of two views of every example: NT-Xent, of SimCLR.

Chen, Kornblith, Norouzi and Hinton, *A Simple Framework for Contrastive Learning of
Visual Representations*, ICML 2020, arXiv 2002.05709, equation 1. With projections z of
2 B views, those of an example at i and at p(i),

    s_ij = z_i . z_j / (|z_i| |z_j| tau)
    loss_i = - s_ip(i) + log sum_{j not i} exp s_ij

so that the other views of the batch are what an example's two are told from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.method import Batch
from fedsparsify_jax.training.forward import training_pass
from fedsparsify_jax.types import ApplyFn, Key, Variables

_NONE = -1e9
"""A similarity that has no weight among others, and no infinity in its gradient."""


class Contrast(NamedTuple):
    """Two views of a batch through a network: rows of the first, then of the second."""

    similarities: jax.Array  # [2 B, 2 B]: s, without a weight where nothing is compared
    losses: jax.Array  # [2 B]
    changed: Variables  # collections that the pass changed


def similarities(z: jax.Array, valid: jax.Array, temperature: ArrayLike) -> jax.Array:
    """Compares views by the cosine of their projections, over a temperature.

    Args:
      z: ``[R, D]``.
      valid: bool ``[R]``, False for padding, which nothing is compared with.
      temperature: tau, above 0; may be traced.

    Returns:
      s ``[R, R]``; of a view and itself, and of padding, -1e9.

    Example:
      >>> z = jnp.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
      >>> similarities(z, jnp.ones(3, bool), 0.5)[1:, 0].tolist()
      [0.0, 2.0]
    """
    squares = jnp.sum(jnp.square(z), axis=-1, keepdims=True)
    unit = z * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
    compared = valid[None] & ~jnp.eye(z.shape[0], dtype=bool)
    return jnp.where(compared, unit @ unit.T / temperature, _NONE)


def nt_xent(similar: jax.Array) -> jax.Array:
    """Computes the losses of 2 B views, the two of an example B rows apart: ``[2 B]``.

    Args:
      similar: of `similarities`, ``[2 B, 2 B]``.

    Example:
      Both views of the first example are alike, and others at a right angle.

      >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
      >>> nt_xent(similarities(z, jnp.ones(4, bool), 1.0)).round(4)
      Array([0.5514, 0.5514, 0.5514, 0.5514], dtype=float32)
    """
    rows = jnp.arange(similar.shape[0])
    partner = (rows + similar.shape[0] // 2) % similar.shape[0]
    return jax.nn.logsumexp(similar, axis=-1) - similar[rows, partner]


def of_two_views(
    apply_fn: ApplyFn,
    variables: Variables,
    batch: Batch,
    key: Key,
    temperature: ArrayLike,
) -> Contrast:
    """Runs a training step's forward pass on two views of every example.

    Args:
      apply_fn: a forward pass that augments at random in training, so that an example
        which is there twice is two views; its outputs ``[R, D]`` are the projections.
      variables: of the network.
      batch: of a client; its targets are not looked at.
      key: of the views, consumed.
      temperature: tau.
    """
    x, valid = jnp.concatenate([batch.x] * 2), jnp.tile(batch.valid, 2)
    z, changed = training_pass(apply_fn, variables, x, key=key, valid=valid)
    similar = similarities(z, valid, temperature)
    return Contrast(similarities=similar, losses=nt_xent(similar), changed=changed)

"""Forgetting: examples that a model was right about, and is not in the end.

Stern, Yaacoby and Weinshall, *On Local Overfitting and Forgetting in Deep Neural
Networks*, AAAI 2025, arXiv 2412.12968 (earlier: arXiv 2310.11094).

Of the correctness C[e, i] of example i of n after round e = 1 ... E,

    F_e  =  sum_i C[e, i] (1 - C[E, i]) / n     forgotten since round e
    L_e  =  sum_i (1 - C[e, i]) C[E, i] / n     learned since round e

and accuracy(E) = accuracy(e) + L_e - F_e: accuracy that rises hides what is forgotten.
The authors have epochs of one model for rounds of a global one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.metrics.prediction import outputs_of
from fedsparsify_jax.training.losses import correct
from fedsparsify_jax.types import ApplyFn, ClientData, Examples, Variables


class Change(NamedTuple):
    """Shares of examples that changed sides between two models."""

    forgotten: jax.Array  # right before, wrong after: [...]
    learned: jax.Array  # wrong before, right after: [...]


def change(
    before: ArrayLike, after: ArrayLike, valid: ArrayLike | None = None
) -> Change:
    """Returns the shares of examples that are forgotten, and that are learned.

    Args:
      before: ``[..., n]`` bool, whether an example is right.
      after: ``[..., n]`` or ``[n]``, the same of a later model.
      valid: likewise, examples that count; None for all. Without any, shares are 0.

    Example:
      >>> rounds = jnp.array([[1, 1, 0, 1], [0, 1, 1, 1]], bool)
      >>> change(rounds, rounds[-1]).forgotten.tolist()
      [0.25, 0.0]
    """
    before = jnp.asarray(before)
    after, counts = (
        jnp.broadcast_to(a, before.shape)
        for a in (after, True if valid is None else valid)
    )

    def share(which: jax.Array) -> jax.Array:
        number = jnp.maximum(jnp.sum(counts, axis=-1), 1)
        return jnp.sum(which & counts, axis=-1) / number

    return Change(forgotten=share(before & ~after), learned=share(~before & after))


def is_right(
    apply_fn: ApplyFn,
    variables: Variables,
    examples: Examples,
    *,
    batch_size: int = 1000,
    batches: ClientMap | None = None,
) -> jax.Array:
    """Computes which examples a model is right about: bool ``[n]``.

    Args:
      apply_fn: the model's forward pass.
      variables: the model.
      examples: x ``[n, ...]`` and classes y ``[n]``.
      batch_size: examples computed at a time.
      batches: how the batches are run; one after another by default.

    Example:
      >>> identity = lambda variables, x, **_: (x, {})
      >>> is_right(identity, {}, Examples(jnp.eye(2), jnp.array([0, 0]))).tolist()
      [True, False]
    """
    outputs = outputs_of(
        apply_fn, variables, examples.x, batch_size=batch_size, batches=batches
    )
    return correct(outputs, jnp.asarray(examples.y)) > 0


def is_right_of_clients(
    apply_fn: ApplyFn,
    variables: Variables,
    clients: ClientData,
    *,
    batch_size: int = 1000,
    batches: ClientMap | None = None,
) -> jax.Array:
    """Computes which of its clients' examples a model is right about: bool ``[N, M]``.

    Args:
      apply_fn: the model's forward pass.
      variables: the model.
      clients: examples ``[N, M, ...]``; padding is wrong.
      batch_size: examples computed at a time.
      batches: how the batches are run; one after another by default.
    """
    number, length = clients.y.shape[:2]
    valid = jnp.arange(length)[None] < clients.sizes[:, None]
    flat = Examples(
        clients.x.reshape(number * length, *clients.x.shape[2:]),
        clients.y.reshape(number * length, *clients.y.shape[2:]),
    )
    right = is_right(apply_fn, variables, flat, batch_size=batch_size, batches=batches)
    return right.reshape(number, length) & valid

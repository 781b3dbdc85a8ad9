"""Evaluation of the model of every client on test examples of its own."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.client_map import ClientMap, chunked
from fedsparsify_jax.metrics.evaluation import MetricFn
from fedsparsify_jax.training.losses import correct
from fedsparsify_jax.types import ApplyFn, ClientRows, Examples, State, Variables


class Spread(NamedTuple):
    """Accuracies of clients in two numbers."""

    mean: float
    worst_decile: float  # mean of the tenth of the clients with the lowest


def evaluate_clients(
    apply_fn: ApplyFn,
    model_of: Callable[[State, jax.Array], Variables],
    state: State,
    examples: Examples,
    tests: ClientRows,
    *,
    metric_fn: MetricFn = correct,
    batch_size: int = 1000,
    clients: ClientMap | None = None,
) -> jax.Array:
    """Computes every client's accuracy (or another measure) with its own model.

    Args:
      apply_fn: the model's forward pass; called with ``train=False``.
      model_of: the state and a client's number to the model that it uses.
      state: of the algorithm.
      examples: the central test set, x ``[n, ...]`` and y ``[n]``.
      tests: the rows of it that are every client's.
      metric_fn: outputs and targets to one number an example.
      batch_size: examples computed at a time.
      clients: how the clients are run, see `client_map`; one after another by default.

    Returns:
      Float32 ``[N]``; 0 for a client without test examples.

    Example:
      Two clients that always answer with their own number:

      >>> def apply_fn(variables, x, **_):
      ...     return jnp.tile(jax.nn.one_hot(variables, 2), (len(x), 1)), {}
      >>> state = State(variables={}, masks={}, round=jnp.int32(0))
      >>> examples = Examples(jnp.zeros((3, 1)), jnp.array([0, 1, 1]))
      >>> tests = ClientRows(jnp.array([[0, 1], [1, 2]]), jnp.array([2, 2]))
      >>> model_of = lambda state, client: client
      >>> evaluate_clients(apply_fn, model_of, state, examples, tests).tolist()
      [0.5, 1.0]
    """
    length = tests.rows.shape[1]
    batch_size = min(batch_size, length)
    slots = jnp.arange(-(-length // batch_size) * batch_size).reshape(-1, batch_size)

    def one(
        shared: tuple[State, Examples], client: tuple[jax.Array, ClientRows]
    ) -> jax.Array:
        state, examples = shared
        number, mine = client
        variables = model_of(state, number)

        def batch(total: jax.Array, slot: jax.Array) -> tuple[jax.Array, None]:
            row = mine.rows[jnp.minimum(slot, length - 1)]
            outputs, _ = apply_fn(variables, examples.x[row])
            measured = metric_fn(outputs, examples.y[row])
            counted = jnp.where(slot < mine.sizes, measured, 0.0)
            return total + jnp.sum(counted, dtype=jnp.float32), None

        total, _ = jax.lax.scan(batch, jnp.float32(0), slots)
        return total / jnp.maximum(mine.sizes, 1)

    tests = ClientRows(jnp.asarray(tests.rows), jnp.asarray(tests.sizes))
    numbers = jnp.arange(tests.sizes.shape[0], dtype=jnp.int32)
    shared = (state, Examples(jnp.asarray(examples.x), jnp.asarray(examples.y)))
    _, measured = (clients or chunked(1))(one, shared, (numbers, tests))
    accuracies: jax.Array = measured
    return accuracies


def tenths(accuracies: np.ndarray) -> list[int]:
    """Counts the clients whose accuracy is in each tenth of [0, 1]; 1 is in the last.

    >>> tenths(np.array([0.05, 0.1, 0.95, 1.0]))
    [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    """
    # In whole hundred thousandths, so that a float32 of 0.3 is in the fourth tenth.
    rounded = np.rint(np.asarray(accuracies, np.float64) * 1e5).astype(np.int64)
    counted = np.bincount(np.clip(rounded // 10_000, 0, 9), minlength=10)
    return [int(number) for number in counted]


def spread(accuracies: np.ndarray) -> Spread:
    """Returns the mean over clients, and that of their worst tenth (at least one).

    >>> spread(np.array([0.5, 1.0, 0.75, 0.75]))
    Spread(mean=0.75, worst_decile=0.5)
    """
    ordered = np.sort(np.asarray(accuracies, np.float64))
    worst = ordered[: max(1, math.ceil(len(ordered) / 10))]
    return Spread(mean=float(ordered.mean()), worst_decile=float(worst.mean()))

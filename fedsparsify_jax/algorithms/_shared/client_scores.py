"""Scores of a model on clients' batches before training, averaged over clients.

Methods that prune at initialisation use this in their ``setup`` hook.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.engine.sampling import cohort_size, sample_cohort
from fedsparsify_jax.method import Batch
from fedsparsify_jax.training.local import epoch_order
from fedsparsify_jax.types import ClientData, Cohort, Key, Scores, Source

ClientScores = Callable[[Key, ClientData], Scores]
"""A key and the data of one client ``[M, ...]`` to scores."""


def first_batch(key: Key, data: ClientData, size: int) -> Batch:
    """Returns the first batch of one client in a fresh random order of its examples.

    Args:
      key: of the order.
      data: one client's, ``[M, ...]``.
      size: B; the batch has ``min(B, M)`` rows, those past the client's size are not
        valid and repeat a real example.

    Example:
      >>> data = ClientData(jnp.arange(3.0), jnp.arange(3), jnp.int32(2))
      >>> first_batch(jax.random.key(0), data, 8).valid.tolist()
      [True, True, False]
    """
    length = data.y.shape[0]
    slots = jnp.arange(min(size, length))
    valid = slots < data.sizes
    index = epoch_order(key, data.sizes, length)[jnp.where(valid, slots, 0)]
    return Batch(data.x[index], data.y[index], valid)


def balanced_batch(
    key: Key, data: ClientData, per_class: int, num_classes: int
) -> Batch:
    """Returns up to ``per_class`` random examples of every class of one client.

    Args:
      key: of the choice.
      data: one client's, ``[M, ...]``, with whole numbers for targets.
      per_class: examples of a class; fewer where the client has fewer.
      num_classes: C; the batch has ``min(per_class * C, M)`` rows.

    Raises:
      ValueError: for targets that are no classes.

    Example:
      >>> y = jnp.array([0, 0, 0, 1, 1, 2])
      >>> data = ClientData(jnp.arange(6.0), y, jnp.int32(6))
      >>> batch = balanced_batch(jax.random.key(0), data, 1, 3)
      >>> sorted(batch.y[batch.valid].tolist())
      [0, 1, 2]
    """
    if not jnp.issubdtype(data.y.dtype, jnp.integer):
        raise ValueError("a balanced batch needs classes, the targets are numbers")
    length = data.y.shape[0]
    order = epoch_order(key, data.sizes, length)
    real = jnp.arange(length) < data.sizes
    classes = data.y[order]
    is_class = (classes[:, None] == jnp.arange(num_classes)[None]) & real[:, None]
    # How many of its class come before each example in the random order.
    rank = jnp.sum(jnp.cumsum(is_class, axis=0) * is_class, axis=1)
    chosen = real & (rank >= 1) & (rank <= per_class)
    first = jnp.argsort(~chosen)[: min(per_class * num_classes, length)]  # stable
    valid = chosen[first]
    index = order[jnp.where(valid, first, first[0])]
    return Batch(data.x[index], data.y[index], valid)


def random_client(key: Key, sizes: jax.Array) -> jax.Array:
    """Draws the id of one client that has examples, uniformly.

    >>> random_client(jax.random.key(0), jnp.array([0, 0, 3, 0])).tolist()
    2
    """
    return jax.random.categorical(key, jnp.where(sizes > 0, 0.0, -jnp.inf))


def scoring_clients(
    key: Key, sizes: jax.Array, *, source: Source, participation: float = 1.0
) -> jax.Array:
    """Chooses the ids ``[P]`` of the clients that `score_clients` looks at.

    Args:
      key: the one that `score_clients` gets.
      sizes: ``[N]``, examples of all clients.
      source: ``"client"`` for a random one, ``"cohort"`` for a round's cohort.
      participation: share of the clients in that cohort.
    """
    choice_key, _ = jax.random.split(key)
    if source == "client":
        return random_client(choice_key, sizes)[jnp.newaxis]
    total = sizes.shape[0]
    return sample_cohort(choice_key, total, cohort_size(total, participation))


def score_clients(
    key: Key,
    clients: Cohort,
    score: ClientScores,
    *,
    source: Source,
    by_examples: bool = False,
) -> Scores:
    """Returns scores from one client, or their mean over a cohort.

    Clients are visited one after another, so memory holds two sets of scores however
    many there are; clients without examples are left out.

    Args:
      key: of the choice (see `scoring_clients`) and of what the scores draw.
      clients: those that are scored, ids ``[P]`` and data ``[P, M, ...]``.
      score: one client's scores.
      source: ``"client"``, with P = 1, or ``"cohort"``.
      by_examples: whether clients of the cohort count by their examples, and not all
        the same.
    """
    _, score_key = jax.random.split(key)
    ids, data = clients.ids, clients.data
    assert ids is not None

    def of_client(place: int | jax.Array) -> Scores:
        key = jax.random.fold_in(score_key, ids[place])
        return score(key, trees.take(data, place))

    if source == "client":
        return of_client(0)

    weights = (data.sizes > 0).astype(jnp.float32)
    if by_examples:
        weights = data.sizes.astype(jnp.float32)

    def add(sums: Scores, place: jax.Array) -> tuple[Scores, None]:
        weight = weights[place]
        return jax.tree.map(
            lambda a, b: a + jnp.where(weight > 0, weight.astype(b.dtype) * b, 0.0),
            sums,
            of_client(place),
        ), None

    shapes = jax.eval_shape(of_client, 0)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    sums, _ = jax.lax.scan(add, zeros, jnp.arange(ids.shape[0]))
    total = jnp.maximum(jnp.sum(weights), 1)
    return jax.tree.map(lambda leaf: (leaf / total).astype(leaf.dtype), sums)

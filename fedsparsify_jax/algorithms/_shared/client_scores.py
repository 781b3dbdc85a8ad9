"""Looking at clients' data before training: batches, and scores averaged over clients.

Methods that prune at initialisation use this in their ``setup`` hook.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.engine.sampling import cohort_size, sample_cohort
from fedsparsify_jax.method import Batch
from fedsparsify_jax.training.local import epoch_order
from fedsparsify_jax.types import ClientData, Key, Scores

ClientScores = Callable[[Key, ClientData], Scores]
"""A key and the data of one client ``[M, ...]`` to scores."""


def first_batch(key: Key, data: ClientData, size: int) -> Batch:
    """The first batch of one client in a fresh random order of its examples.

    Args:
      key: of the order.
      data: one client's, ``[M, ...]``.
      size: B; the batch has ``min(B, M)`` rows, those past the client's count are not
        valid and repeat a real example.

    Example:
      >>> data = ClientData(jnp.arange(3.0), jnp.arange(3), jnp.int32(2))
      >>> first_batch(jax.random.key(0), data, 8).valid.tolist()
      [True, True, False]
    """
    length = data.y.shape[0]
    slots = jnp.arange(min(size, length))
    valid = slots < data.count
    index = epoch_order(key, data.count, length)[jnp.where(valid, slots, 0)]
    return Batch(data.x[index], data.y[index], valid)


def random_client(key: Key, count: jax.Array) -> jax.Array:
    """The id of one client that has examples, uniformly at random.

    >>> random_client(jax.random.key(0), jnp.array([0, 0, 3, 0])).tolist()
    2
    """
    return jax.random.categorical(key, jnp.where(count > 0, 0.0, -jnp.inf))


def nobody(key: Key, count: jax.Array) -> jax.Array:
    """The `Method.scouts` of methods that look at no client's data."""
    del key, count
    return jnp.zeros(0, jnp.int32)


def scoring_clients(
    key: Key, count: jax.Array, *, source: str, participation: float = 1.0
) -> jax.Array:
    """The ids ``[P]`` of the clients that `score_clients` with this key looks at.

    Args:
      key: the one that `score_clients` gets.
      count: ``[N]``, examples of all clients.
      source: ``"client"`` for a random one, ``"cohort"`` for a round's cohort.
      participation: share of the clients in that cohort.
    """
    choice_key, _ = jax.random.split(key)
    if source == "client":
        return random_client(choice_key, count)[jnp.newaxis]
    total = count.shape[0]
    return sample_cohort(choice_key, total, cohort_size(total, participation))


def score_clients(
    key: Key, ids: jax.Array, clients: ClientData, score: ClientScores, *, source: str
) -> Scores:
    """Scores from one client, or their mean over a cohort.

    Clients are visited one after another, so memory holds two sets of scores however
    many there are; clients without examples are left out.

    Args:
      key: of the choice (see `scoring_clients`) and of what the scores draw.
      ids: ``[P]``, who is scored.
      clients: their data, ``[P, M, ...]``.
      score: one client's scores.
      source: ``"client"``, with P = 1, or ``"cohort"``.
    """
    _, score_key = jax.random.split(key)

    def of_client(place: int | jax.Array) -> Scores:
        key = jax.random.fold_in(score_key, ids[place])
        return score(key, trees.take(clients, place))

    if source == "client":
        return of_client(0)

    def add(sums: Scores, place: jax.Array) -> tuple[Scores, None]:
        mine = of_client(place)
        present = clients.count[place] > 0
        return jax.tree.map(
            lambda a, b: a + jnp.where(present, b, 0.0), sums, mine
        ), None

    shapes = jax.eval_shape(of_client, 0)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    sums, _ = jax.lax.scan(add, zeros, jnp.arange(ids.shape[0]))
    present = jnp.maximum(jnp.sum(clients.count > 0), 1)
    return jax.tree.map(lambda leaf: leaf / present, sums)

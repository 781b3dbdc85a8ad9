"""Looking at clients' data before training: batches, and scores averaged over clients.

Methods that prune at initialisation use this in their ``setup`` hook.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.hooks import Batch
from fedsparsify_jax.local_training import epoch_order
from fedsparsify_jax.sampling import cohort_size, sample_cohort
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


def random_client(key: Key, clients: ClientData) -> tuple[jax.Array, ClientData]:
    """One client that has examples, uniformly at random: its id and its data."""
    logits = jnp.where(clients.count > 0, 0.0, -jnp.inf)
    chosen = jax.random.categorical(key, logits)
    return chosen, trees.take(clients, chosen)


def score_clients(
    key: Key,
    clients: ClientData,
    score: ClientScores,
    *,
    source: str,
    participation: float = 1.0,
) -> Scores:
    """Scores from one random client, or their mean over a cohort.

    Clients are visited one after another, so memory holds two sets of scores however
    many there are; clients without examples are left out.

    Args:
      key: of the choice and of what the scores draw.
      clients: all N.
      score: one client's scores.
      source: ``"client"`` or ``"cohort"``.
      participation: share of the clients in that cohort.
    """
    choice_key, score_key = jax.random.split(key)
    if source == "client":
        chosen, data = random_client(choice_key, clients)
        return score(jax.random.fold_in(score_key, chosen), data)
    total = clients.count.shape[0]
    cohort = sample_cohort(choice_key, total, cohort_size(total, participation))

    def of_client(index: jax.Array) -> Scores:
        return score(jax.random.fold_in(score_key, index), trees.take(clients, index))

    def add(sums: Scores, index: jax.Array) -> tuple[Scores, None]:
        mine = of_client(index)
        present = clients.count[index] > 0
        return jax.tree.map(
            lambda a, b: a + jnp.where(present, b, 0.0), sums, mine
        ), None

    shapes = jax.eval_shape(of_client, cohort[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    sums, _ = jax.lax.scan(add, zeros, cohort)
    present = jnp.maximum(jnp.sum(clients.count[cohort] > 0), 1)
    return jax.tree.map(lambda leaf: leaf / present, sums)

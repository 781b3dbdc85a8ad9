"""The clients of a round, and their randomness.

A cohort has a fixed size, ``floor(p N)`` clients without replacement, or is a Poisson
sample: each client takes part with probability p, independently of all others. For that
a round has as many places as are ever needed, of which those who did not join fill the
rest without any effect. The number of those who join exceeds the places with a
probability of at most 1e-30; those with the largest ids would then stay out.

Or the clients of a round are chosen so that together they hold nearly the classes of
the whole federation, which evens out the swings of small cohorts of unlike clients. The
server is then told how many examples of each class a client has. In the spirit of
Astraea's mediators (Duan et al., arXiv 1907.01132) and FedCBS (Zhang et al., arXiv
2209.15245), which even classes out as well; here the aim is the federation's own mix.
"""

import bisect
import math

import jax
import jax.numpy as jnp

from fedsparsify_jax.types import CohortSampling, Key

_OVERFLOW = 1e-30


def cohort_size(
    num_clients: int, participation: float, sampling: CohortSampling = "fixed"
) -> int:
    """Returns the places for clients in a round.

    They are ``floor(participation * num_clients)``, and more of a Poisson sample, see
    `poisson_places`.

    Raises:
      ValueError: if the participation is outside (0, 1] or selects nobody.

    >>> cohort_size(100, 0.29)
    29
    """
    if not 0 < participation <= 1:
        raise ValueError(
            f"participation is {participation}: it must be above 0 and at most 1"
        )
    if sampling == "poisson":
        return poisson_places(num_clients, participation)
    # The tolerance keeps decimals such as 0.29 from losing a client to rounding.
    size = int(participation * num_clients + 1e-9)
    if size < 1:
        raise ValueError(
            f"participation {participation} of {num_clients} clients selects nobody: "
            f"use at least {1 / num_clients:g}"
        )
    return size


def sample_cohort(key: Key, num_clients: int, size: int) -> jax.Array:
    """Draws distinct clients uniformly, in ascending order: int32 ``[size]``.

    >>> sample_cohort(jax.random.key(0), 4, 4)
    Array([0, 1, 2, 3], dtype=int32)
    """
    if size == num_clients:
        return jnp.arange(num_clients, dtype=jnp.int32)
    chosen = jax.random.choice(key, num_clients, (size,), replace=False)
    return jnp.sort(chosen).astype(jnp.int32)


def class_counts(labels: jax.Array, sizes: jax.Array, num_classes: int) -> jax.Array:
    """Counts every client's examples of each class: float32 ``[N, C]``.

    Args:
      labels: int ``[N, M]``; rows from ``sizes`` on are padding.
      sizes: int ``[N]``.
      num_classes: C.

    >>> class_counts(jnp.array([[0, 2, 2], [1, 0, 0]]), jnp.array([3, 1]), 3).tolist()
    [[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]
    """
    real = jnp.arange(labels.shape[1])[None] < sizes[:, None]
    # Padding is of no class: the count of each id is a sum over one client's row.
    own = jnp.where(real, labels, num_classes)
    return jax.vmap(lambda row: jnp.bincount(row, length=num_classes + 1)[:-1])(
        own
    ).astype(jnp.float32)


def sample_representative(
    key: Key, counts: jax.Array, size: int, pool: int = 3
) -> jax.Array:
    """Draws clients whose examples together have nearly the classes of all clients'.

    Of ``pool`` times as many clients, drawn uniformly, the first takes part, and then,
    one at a time, the one with which the cohort's shares of the classes come nearest to
    those of the whole federation. Clients with rare classes are so drawn more often
    than others, and none is left out for good.

    Args:
      key: of the draw.
      counts: examples of each class, float32 ``[N, C]``, see `class_counts`.
      size: K, the clients to draw.
      pool: how many times as many are looked at.

    Returns:
      Distinct ids in ascending order, int32 ``[K]``.

    Example:
      Of two clients with the first class and two with the second, one of each:

      >>> counts = jnp.array([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
      >>> first, second = sample_representative(jax.random.key(0), counts, 2).tolist()
      >>> first in (0, 1), second in (2, 3)
      (True, True)
    """
    total = counts.shape[0]
    if size == total:
        return jnp.arange(total, dtype=jnp.int32)
    ids = jax.random.permutation(key, total)[: min(pool * size, total)]
    offered = counts[ids]
    wanted = _shares(jnp.sum(counts, axis=0))

    def choose(
        carry: tuple[jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        held, taken = carry
        apart = jnp.square(_shares(held[None] + offered) - wanted[None])
        # Sums of shares round differently for equal clients: then the first one.
        distance = jnp.where(taken, jnp.inf, jnp.round(jnp.sum(apart, axis=1), 5))
        best = jnp.argmin(distance)
        return (held + offered[best], taken.at[best].set(True)), best

    first = jnp.zeros(ids.shape, bool).at[0].set(True)
    _, others = jax.lax.scan(choose, (offered[0], first), length=size - 1)
    chosen = jnp.concatenate([jnp.zeros(1, others.dtype), others])
    return jnp.sort(ids[chosen]).astype(jnp.int32)


def _shares(counts: jax.Array) -> jax.Array:
    return counts / jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1.0)


def poisson_places(num_clients: int, probability: float) -> int:
    """Returns the places that suffice but for a probability of 1e-30.

    By Chernoff's bound: more than m of N join with a probability of at most
    ``exp(-N KL((m + 1) / N || q))``.

    >>> poisson_places(1000, 0.05), poisson_places(10, 0.5), poisson_places(10, 1.0)
    (149, 10, 10)
    """

    def suffices(places: int) -> bool:
        share = (places + 1) / num_clients
        divergence = share * math.log(share / probability)
        if share < 1:
            divergence += (1 - share) * math.log((1 - share) / (1 - probability))
        return num_clients * divergence >= -math.log(_OVERFLOW)

    mean = min(math.ceil(num_clients * probability), num_clients)
    numbers = range(mean, num_clients)
    return mean + bisect.bisect_left(numbers, True, key=suffices)


def joins(key: Key, ids: jax.Array, probability: float) -> jax.Array:
    """Draws which clients take part, each by its own id: bool ``[K]``.

    >>> joins(jax.random.key(0), jnp.arange(3), 1.0).tolist()
    [True, True, True]
    """

    def draw(id: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, id)) < probability

    return jax.vmap(draw)(ids)


def sample_poisson(
    key: Key, num_clients: int, probability: float, size: int
) -> jax.Array:
    """Returns all clients that join, and others in the places left: int32 ``[size]``.

    >>> key, everyone = jax.random.key(0), jnp.arange(100)
    >>> ids = sample_poisson(key, 100, 0.1, 50)
    >>> bool(joins(key, everyone, 0.1).sum() == joins(key, ids, 0.1).sum())
    True
    """
    joined = joins(key, jnp.arange(num_clients, dtype=jnp.int32), probability)
    order = jnp.argsort(~joined, stable=True)
    return jnp.sort(order[:size]).astype(jnp.int32)


def client_keys(key: Key, cohort: jax.Array) -> Key:
    """Derives a key a client ``[K]`` from its id, not from its place in the cohort."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, cohort)

"""The clients of a round, and their randomness.

A cohort has a fixed size, ``floor(p N)`` clients without replacement, or is a Poisson
sample: each client takes part with probability p, independently of all others. For that
a round has as many places as are ever needed, of which those who did not join fill the
rest without any effect. The number of those who join exceeds the places with a
probability of at most 1e-30; those with the largest ids would then stay out.
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

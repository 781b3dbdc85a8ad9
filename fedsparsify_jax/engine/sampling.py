"""The clients of a round, and their randomness."""

import jax
import jax.numpy as jnp

from fedsparsify_jax.types import Key


def cohort_size(num_clients: int, participation: float) -> int:
    """Clients in a round: ``floor(participation * num_clients)``.

    Raises:
      ValueError: if the participation is outside (0, 1] or selects nobody.

    >>> cohort_size(100, 0.29)
    29
    """
    if not 0 < participation <= 1:
        raise ValueError(
            f"participation is {participation}: it must be above 0 and at most 1"
        )
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


def client_keys(key: Key, cohort: jax.Array) -> Key:
    """Derives a key a client ``[K]`` from its id, not from its place in the cohort."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, cohort)

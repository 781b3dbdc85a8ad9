"""Checks of what a caller passes to an algorithm, before anything else sees it."""

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.types import (
    ClientData,
    Cohort,
    FederatedAlgorithm,
    Key,
    RoundInfo,
    State,
)


def check_key(key: Key) -> None:
    """Refuses what is no PRNG key.

    Raises:
      InputError: naming the value and the function that makes a key of it.
    """
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.ndim(key) == 0:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            return
    elif dtype == jnp.uint32 and jnp.ndim(key) == 1:  # of the old kind
        return
    raise InputError(
        f"key is {shown(key)}: it must be one PRNG key, such as jax.random.key(0)"
    )


def bounded(clients: ClientData) -> ClientData:
    """Keeps the clients' sizes within the length of their rows.

    Sizes that are being traced are clipped.

    Raises:
      InputError: for concrete sizes out of range.

    Example:
      >>> data = ClientData(jnp.ones((2, 3, 1)), jnp.ones((2, 3)), jnp.array([3, 7]))
      >>> jax.jit(bounded)(data).sizes.tolist()
      [3, 3]
    """
    sizes, length = clients.sizes, jnp.shape(clients.y)[1]
    if isinstance(sizes, jax.core.Tracer):
        return clients._replace(sizes=jnp.clip(sizes, 0, length))
    if getattr(sizes, "is_fully_addressable", True):
        numbers = np.asarray(sizes)
        wrong = np.flatnonzero((numbers < 0) | (numbers > length))
        if wrong.size:
            raise InputError(
                f"sizes of clients: client {wrong[0]} has {numbers[wrong[0]]} examples "
                f"in a row of {length}: sizes must be between 0 and {length}"
            )
    return clients


def with_checks(algorithm: FederatedAlgorithm) -> FederatedAlgorithm:
    """Checks keys and sizes of clients before every round."""
    inner = algorithm

    def step(key: Key, state: State, clients: ClientData) -> tuple[State, RoundInfo]:
        check_key(key)
        return inner.step(key, state, bounded(clients))

    if algorithm.cohorts is None:
        return algorithm._replace(step=step)
    cohorts = algorithm.cohorts

    def sample(key: Key, total: int) -> jax.Array:
        check_key(key)
        return cohorts.sample(key, total)

    def run(
        key: Key, state: State, cohort: Cohort, setup_clients: Cohort | None = None
    ) -> tuple[State, RoundInfo]:
        check_key(key)
        cohort = cohort._replace(data=bounded(cohort.data))
        if setup_clients is not None:
            setup_clients = setup_clients._replace(data=bounded(setup_clients.data))
        return cohorts.run(key, state, cohort, setup_clients)

    return algorithm._replace(
        step=step, cohorts=cohorts._replace(sample=sample, run=run)
    )

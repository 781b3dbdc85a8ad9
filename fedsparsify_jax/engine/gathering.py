"""The step of an algorithm: whose turn it is, their data, and the round on these."""

import chex
import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.engine.options import Options
from fedsparsify_jax.engine.records import RoundKeys
from fedsparsify_jax.engine.round import RoundFn
from fedsparsify_jax.engine.sampling import (
    class_counts,
    cohort_size,
    joins,
    sample_cohort,
    sample_poisson,
    sample_representative,
)
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import no_clients
from fedsparsify_jax.types import (
    ClientData,
    Cohort,
    Cohorts,
    FederatedAlgorithm,
    InitFn,
    Key,
    RoundInfo,
    State,
)


def gathering(init: InitFn, run: RoundFn, o: Options) -> FederatedAlgorithm:
    """Makes ``step`` of a round: sample, gather, run."""

    def sample(key: Key, total: int, clients: ClientData | None = None) -> jax.Array:
        if o.num_clients not in (None, total):
            raise ValueError(
                f"num_clients is {o.num_clients}, asked for {total} clients"
            )
        size, key = size_of(total), _cohort_key(key)
        if o.cohort_sampling == "poisson":
            return sample_poisson(key, total, o.participation, size)
        if o.cohort_sampling == "representative" and size < total:
            return sample_representative(key, _counts(clients, o), size)
        return sample_cohort(key, total, size)

    def size_of(total: int) -> int:
        return cohort_size(total, o.participation, o.cohort_sampling)

    def joining(key: Key, cohort: Cohort) -> Cohort:
        """Marks those who join, if that is for each client to draw."""
        if o.cohort_sampling != "poisson":
            return cohort
        ids = cohort.ids
        if ids is None:
            ids = jnp.arange(cohort.data.sizes.shape[0], dtype=jnp.int32)
        return cohort._replace(joined=joins(_cohort_key(key), ids, o.participation))

    def step(key: Key, state: State, clients: ClientData) -> tuple[State, RoundInfo]:
        _check_clients(clients, state, o.num_clients)
        total = clients.sizes.shape[0]
        if size_of(total) == total:
            return run(key, state, joining(key, Cohort(None, clients)))
        ids = sample(key, total, clients)
        cohort = Cohort(ids, trees.take(clients, ids))
        return run(key, state, joining(key, cohort))

    def run_cohort(
        key: Key, state: State, cohort: Cohort, setup_clients: Cohort | None = None
    ) -> tuple[State, RoundInfo]:
        _check_cohort(cohort)
        return run(key, state, joining(key, cohort))

    cohorts = Cohorts(sample=sample, run=run_cohort, setup_clients=no_clients)
    return FederatedAlgorithm(init, step, cohorts=cohorts)


def _counts(clients: ClientData | None, o: Options) -> jax.Array:
    """Returns the clients' examples of each class, for representative cohorts."""
    if clients is None:
        raise ValueError(
            "cohort_sampling is representative, and without the data of all clients "
            "their labels are not known: use step"
        )
    y = clients.y
    if y.ndim != 2 or not jnp.issubdtype(y.dtype, jnp.integer):
        raise InputError(
            "cohort_sampling is representative, and the targets have shape "
            f"{list(y.shape)} and dtype {y.dtype}: it takes integer classes [N, M]"
        )
    assert o.num_classes is not None
    return class_counts(y, clients.sizes, o.num_classes)


def _cohort_key(key: Key) -> Key:
    return RoundKeys.of(jax.random.clone(key)).cohort


def _check_clients(clients: ClientData, state: State, num_clients: int | None) -> None:
    """Checks shapes, when the round is traced."""
    chex.assert_rank(clients.sizes, 1)
    chex.assert_equal_shape_prefix([clients.x, clients.y, clients.sizes], 1)
    chex.assert_equal_shape_prefix([clients.x, clients.y], 2)
    total = clients.sizes.shape[0]
    if num_clients is not None and num_clients != total:
        raise ValueError(f"num_clients is {num_clients}, the data has {total} clients")
    if jax.tree.leaves(state.clients):
        chex.assert_tree_shape_prefix(state.clients, (total,))


def _check_cohort(cohort: Cohort) -> None:
    """Checks shapes, when the round is traced."""
    chex.assert_equal_shape_prefix([cohort.data.x, cohort.data.y], 2)
    if cohort.ids is not None:
        chex.assert_rank(cohort.ids, 1)
        chex.assert_tree_shape_prefix(cohort.data, cohort.ids.shape)

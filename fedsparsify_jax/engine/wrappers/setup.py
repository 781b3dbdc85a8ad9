"""Masks before training: a method's `method.Setup` inside round 1."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.engine.records import RoundKeys, open_round
from fedsparsify_jax.method import Method, no_clients
from fedsparsify_jax.metrics.communication import BYTES_PER_NUMBER, nonzero_bytes
from fedsparsify_jax.types import (
    ClientData,
    Cohort,
    FederatedAlgorithm,
    Halves,
    Key,
    Masks,
    PyTree,
    RoundInfo,
    State,
    Variables,
)


def with_setup(method: Method, algorithm: FederatedAlgorithm) -> FederatedAlgorithm:
    """Runs the method's setup, if it has one, before anything else of round 1.

    Args:
      method: its ``setup`` sees the data of the clients that it chooses.
      algorithm: of its other hooks.

    Returns:
      The algorithm. ``cohorts.run`` raises ``ValueError`` without the setup clients.
    """
    setup = method.setup
    if setup is None or algorithm.cohorts is None:
        return algorithm
    inner, cohorts = algorithm, algorithm.cohorts

    def prepared(key: Key, state: State, gather: Callable[[Key], Cohort]) -> State:
        key = RoundKeys.of(jax.random.clone(key)).setup
        numbers, with_keys = trees.hide_keys(key)
        context = open_round(method, state)

        def first() -> tuple[Variables, Masks]:
            clients = gather(with_keys(numbers))
            return setup.masks(with_keys(numbers), context, clients)

        variables, masks = jax.lax.cond(
            state.round == 0, first, lambda: (state.variables, state.masks)
        )
        return state._replace(variables=variables, masks=masks)

    def counted(
        state: State, start: State, new: State, info: RoundInfo, number: int
    ) -> tuple[State, RoundInfo]:
        """Counts the messages of the clients that setup looked at."""

        def each(total: jax.Array) -> jax.Array:
            total = jnp.where(state.round == 0, total, 0).astype(jnp.uint32)
            return jnp.broadcast_to(total, (number,))

        if setup.traffic is None:
            scores = BYTES_PER_NUMBER * trees.size(state.variables["params"])
            up, down = jnp.uint32(scores), nonzero_bytes(state.variables)
        else:
            up, down = setup.traffic(start.variables, start.masks)
        return new, info._replace(setup_up=each(up), setup_down=each(down))

    def step(key: Key, state: State, clients: ClientData) -> tuple[State, RoundInfo]:
        def gather(key: Key) -> Cohort:
            ids = setup.clients(key, clients.sizes).astype(jnp.int32)
            return Cohort(ids, trees.take(clients, ids))

        ids = jax.eval_shape(setup.clients, key, clients.sizes)
        start = prepared(key, state, gather)
        return counted(state, start, *inner.step(key, start, clients), ids.shape[0])

    def run(
        key: Key, state: State, cohort: Cohort, setup_clients: Cohort | None = None
    ) -> tuple[State, RoundInfo]:
        if setup_clients is None:
            raise ValueError(
                "this method may look at clients' data before round 1: give run the "
                "clients whose ids algorithm.cohorts.setup_clients chooses"
            )
        start = prepared(key, state, lambda key: setup_clients)
        number = setup_clients.data.sizes.shape[0]
        return counted(state, start, *cohorts.run(key, start, cohort), number)

    def setup_clients(key: Key, sizes: jax.Array) -> jax.Array:
        key = RoundKeys.of(jax.random.clone(key)).setup
        return setup.clients(key, sizes).astype(jnp.int32)

    parts = cohorts._replace(run=run, setup_clients=setup_clients)
    of_nobody = setup.clients is no_clients
    return algorithm._replace(
        step=step,
        cohorts=parts,
        halves=_opened(prepared, inner.halves) if of_nobody else None,
    )


def _opened(
    prepared: Callable[[Key, State, Callable[[Key], Cohort]], State],
    halves: Halves | None,
) -> Halves | None:
    """Opens rounds after a setup that looks at no client's data."""
    if halves is None:
        return None
    inner = halves.open

    def open_(key: Key, state: State, nobody: ClientData) -> PyTree:
        ids = jnp.zeros(0, jnp.int32)
        start = prepared(key, state, lambda key: Cohort(ids, nobody))
        return inner(key, start, nobody)

    return halves._replace(open=open_)

"""Rounds with something before and after them, and what that keeps on the server."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedsparsify_jax.types import (
    ClientData,
    Cohort,
    FederatedAlgorithm,
    Halves,
    Key,
    PyTree,
    RoundInfo,
    State,
    Variables,
    nothing_more,
)


def copied(variables: Variables) -> Variables:
    """Copies variables, for a donated state may not hold an array twice."""
    return jax.tree.map(jnp.copy, variables)


def _as_it_is(state: State, kept: PyTree) -> State:
    return state


class Around(NamedTuple):
    """Functions that are called around an algorithm's rounds.

    States are the algorithm's own; ``kept`` is what is kept beside its server state.
    """

    # variables -> what is kept before round 1, and after the work that ends a run
    init: Callable[[Variables], PyTree]
    # (state, kept, state after the round, info) -> (state, kept)
    after: Callable[[State, PyTree, State, RoundInfo], tuple[State, PyTree]]
    # (state, kept) -> state from which a round begins
    before: Callable[[State, PyTree], State] = _as_it_is
    # (state, kept) -> state whose model is taken away, and worked on in the end
    taken: Callable[[State, PyTree], State] = _as_it_is


def around(
    algorithm: FederatedAlgorithm,
    what: Around,
    record: Callable[[PyTree, PyTree], Any],
) -> FederatedAlgorithm:
    """Puts something around the rounds of an algorithm.

    Args:
      algorithm: any. Its ``model``, ``variants`` and ``finish`` are applied to what is
        taken away.
      what: happens around its rounds.
      record: makes ``State.server``, a pair, of the algorithm's own server state and
        what is kept.
    """
    cohorts = algorithm.cohorts

    def parted(state: State) -> tuple[State, PyTree]:
        own, kept = state.server
        return state._replace(server=own), kept

    def joined(state: State, kept: PyTree) -> State:
        return state._replace(server=record(state.server, kept))

    def start(state: State) -> State:
        return what.before(*parted(state))

    def taken(state: State) -> State:
        return what.taken(*parted(state))

    def ended(old: State, new: State, info: RoundInfo) -> tuple[State, RoundInfo]:
        return joined(*what.after(*parted(old), new, info)), info

    def init(key: Key, variables: Variables) -> State:
        state = algorithm.init(key, variables)
        return joined(state, what.init(state.variables))

    def step(key: Key, state: State, clients: ClientData) -> tuple[State, RoundInfo]:
        return ended(state, *algorithm.step(key, start(state), clients))

    def run(
        key: Key, state: State, cohort: Cohort, setup_clients: Cohort | None = None
    ) -> tuple[State, RoundInfo]:
        assert cohorts is not None
        return ended(state, *cohorts.run(key, start(state), cohort, setup_clients))

    def apart(halves: Halves) -> Halves:
        def merge(key: Key, state: State, *round_: Any) -> tuple[State, RoundInfo]:
            return ended(state, *halves.merge(key, start(state), *round_))

        def open_(key: Key, state: State, nobody: ClientData) -> PyTree:
            return halves.open(key, start(state), nobody)

        return halves._replace(open=open_, merge=merge)

    def finish(key: Key, state: State, clients: ClientData) -> State:
        last = algorithm.finish(key, taken(state), clients)
        return joined(last, what.init(last.variables))

    return algorithm._replace(
        init=init,
        step=step,
        model=lambda state: algorithm.model(taken(state)),
        finish=algorithm.finish if algorithm.finish is nothing_more else finish,
        cohorts=cohorts and cohorts._replace(run=run),
        variants=lambda state: algorithm.variants(taken(state)),
        halves=algorithm.halves and apart(algorithm.halves),
    )

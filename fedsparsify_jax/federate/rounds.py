"""Rounds over a network, in the place of a run's compiled program."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.client_map import chunked
from fedsparsify_jax.engine.halves import fields_read, no_examples
from fedsparsify_jax.engine.records import ClientResult
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.clients import Broadcast, Members
from fedsparsify_jax.federate.collecting import Collect
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.programs.federation import Federation, round_key
from fedsparsify_jax.runner.programs.program import (
    Evaluations,
    EvaluationSets,
    Report,
    evaluate_sets,
    evaluation_sets,
    network_of,
)
from fedsparsify_jax.runner.programs.sources import RoundData
from fedsparsify_jax.types import (
    ClientData,
    ClientsState,
    FederatedAlgorithm,
    Halves,
    Key,
    RoundInfo,
    State,
    nothing_more,
)


def halves_of(config: TrainConfig, algorithm: FederatedAlgorithm) -> Halves:
    """Returns the halves of an algorithm whose clients can work apart.

    Raises:
      InputError: naming the algorithm that cannot.
    """
    name, halves = config.algorithm, algorithm.halves
    if halves is None:
        raise InputError(
            f"{name} with these options looks at clients' data before round 1, or "
            "trains another network in every stage: no server of a federation can"
        )
    if algorithm.finish is not nothing_more:
        raise InputError(
            f"{name} works on clients' data after the last round: no server of a "
            "federation has them"
        )
    return halves


def whole_of(halves: Halves, state: State, number: int) -> State:
    """Returns a state with the shapes of what all clients keep, which no server has.

    Args:
      halves: of an algorithm.
      state: of the server.
      number: of clients.
    """
    kept = jax.eval_shape(halves.keep, state.variables)
    of_all = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((number, *leaf.shape), leaf.dtype), kept
    )
    return state._replace(clients=of_all)


def fields_sent(federation: Federation, data: ClientData) -> frozenset[str]:
    """Returns the fields of the context that clients read, and must be sent.

    Args:
      federation: without clients' data.
      data: shapes of the data of a client.

    Raises:
      InputError: for a method whose clients read what others keep.
    """
    algorithm, halves = federation.algorithm, federation.algorithm.halves
    assert halves is not None
    key = jax.random.key(0)
    variables = jax.eval_shape(federation.model.init, key)
    state = jax.eval_shape(algorithm.init, key, variables)
    whole = whole_of(halves, state, len(federation.parts))
    fields = fields_read(halves, whole, data)
    if "clients" in fields:
        raise InputError(
            "the clients of this algorithm read the models of one another: no server "
            "of a federation has them"
        )
    return fields


class _Programs(NamedTuple):
    open: Any
    merge: Any
    evaluate: Any


class NetworkRounds:
    """The rounds of a federation, the clients' part on their own machines.

    It has the methods of `RoundProgram`.

    Args of the constructor:
      federation: without clients' data.
      clients: all of which have joined.
      data: shapes of the data of a client.
      reads: fields of the context that clients read, see `fields_sent`.
      key: of the run's rounds.
      collect: how uploads come to the server.
    """

    def __init__(
        self,
        federation: Federation,
        clients: Members,
        data: ClientData,
        reads: frozenset[str],
        key: Key,
        collect: Collect,
    ):
        self.traces, self.compile_seconds = 1, 0.0
        self._federation, self._key = federation, key
        self._known, self._collect = clients.known, collect
        halves = federation.algorithm.halves
        assert halves is not None
        self._halves, self._data, self._reads = halves, data, reads
        self._sets = evaluation_sets(federation.dataset)
        self._sizes = np.array(
            [clients.sizes[number] for number in sorted(clients.sizes)], np.int32
        )
        self._like: ClientResult | None = None
        self._programs: _Programs | None = None

    @property
    def programs(self) -> int:
        """Returns how many programs the server has: to open, merge and evaluate."""
        return 3

    def compile(self, state: State, rounds: int) -> None:
        """Compiles the server's part, once."""
        if self._like is not None:
            return
        begin = time.perf_counter()
        context = jax.eval_shape(
            self._halves.open, self._key, state, no_examples(self._data)
        )
        kept = jax.eval_shape(self._halves.keep, state.variables)
        number = jnp.int32(0)
        result: ClientResult = jax.eval_shape(
            self._halves.client, self._key, context, number, self._data, kept
        )
        self._like = result._replace(state=ClientsState(), change=())
        self._programs = self._compiled(state, self._like)
        self.compile_seconds += time.perf_counter() - begin

    def _compiled(self, state: State, like: ClientResult) -> "_Programs":
        """Returns the programs of the server's part of a round."""
        halves, nobody = self._halves, no_examples(self._data)
        context = jax.eval_shape(halves.open, self._key, state, nobody)
        number = self._collect.entries(len(self._cohort(self._key)))

        def of_all(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((number, *leaf.shape), leaf.dtype)

        numbers, flags = jnp.int32(0), jnp.bool_(False)
        merge = jax.jit(halves.merge).lower(
            self._key,
            state,
            context,
            of_all(numbers),
            of_all(numbers),
            of_all(flags),
            jax.tree.map(of_all, like),
        )
        return _Programs(
            open=jax.jit(halves.open).lower(self._key, state, nobody).compile(),
            merge=merge.compile(),
            evaluate=jax.jit(self._evaluations).lower(state, self._sets).compile(),
        )

    def _cohort(self, key: Key) -> np.ndarray:
        """Returns the clients of the round of a key: int32 ``[K]``."""
        cohorts = self._federation.algorithm.cohorts
        assert cohorts is not None
        return np.asarray(cohorts.sample(key, len(self._sizes)))

    def prepare(self, state: State, rounds: int, completed: int) -> None:
        """Does nothing more than `compile`."""
        self.compile(state, rounds)

    def __call__(
        self, state: State, rounds: int, data: RoundData
    ) -> tuple[State, list[Report]]:
        """Runs rounds; what each reports has the evaluations after the last."""
        infos = []
        for _ in range(rounds):
            state, info = self._round(state)
            infos.append(info)
        assert self._programs is not None
        evaluations = jax.device_get(self._programs.evaluate(state, self._sets))
        return state, [Report(info=info, evaluations=evaluations) for info in infos]

    def _round(self, state: State) -> tuple[State, RoundInfo]:
        assert self._like is not None and self._programs is not None
        key, t = round_key(self._key, state.round), int(state.round) + 1
        ids = self._cohort(key)

        # Tune, on the clients' machines.
        context = self._programs.open(key, state, no_examples(self._data))
        host = jax.device_get(context)
        sent = Broadcast(
            round=t,
            variables=host.variables,
            masks=host.masks,
            server=host.server if "server" in self._reads else (),
        )
        collected = self._collect(ids, self._sizes[ids], sent, self._like)

        # Merge and purge.
        state, info = self._programs.merge(
            key,
            state,
            context,
            collected.ids,
            collected.sizes,
            collected.arrived,
            collected.results,
        )
        if int(info.merged):
            for client in collected.merged:
                self._known.counted(client, t)
        return state, collected.report(jax.device_get(info))

    def _evaluations(self, state: State, sets: EvaluationSets) -> Evaluations:
        federation = self._federation
        network = network_of(federation, federation.algorithm, state)
        return evaluate_sets(federation, network, sets, chunked(1))

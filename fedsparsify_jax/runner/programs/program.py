"""The compiled program of a run: some rounds and the evaluation after them."""

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedsparsify_jax.client_map import CohortMap, chunked, sharded
from fedsparsify_jax.data import Dataset
from fedsparsify_jax.metrics import Evaluation, evaluate
from fedsparsify_jax.runner.programs.devices import Placement
from fedsparsify_jax.runner.programs.federation import Federation
from fedsparsify_jax.types import (
    ClientData,
    Examples,
    FederatedAlgorithm,
    Key,
    RoundInfo,
    State,
)


def evaluation_batch(shape: tuple[int, ...]) -> int:
    """Test examples computed at a time: 2^18 numbers of input, at most 1000."""
    return max(1, min(1000, 2**18 // math.prod(shape)))


Held = dict[str, Examples]
"""Examples that nobody trains on: ``test``, and ``validation`` where there is one."""
Evaluations = dict[str, Evaluation]
"""The model on each of them, by the name that metrics.jsonl has for it."""


def held_examples(dataset: Dataset) -> Held:
    """What the model is evaluated on."""
    held = {"test": dataset.test}
    if dataset.validation is not None:
        held["validation"] = dataset.validation
    return {name: Examples(*map(np.asarray, part)) for name, part in held.items()}


def round_key(key: Key, completed: jax.Array) -> Key:
    """The key of the round after ``completed``, whatever came before it.

    That is what makes resuming exact.
    """
    return jax.random.fold_in(key, completed + 1)


class RoundProgram:
    """Federated rounds and the evaluation after the last of them, as one program.

    Compiling ahead of time leaves no second compilation to happen by accident: a state
    of another shape, dtype or placement would be an error. Each number of rounds in a
    row is a program of its own, so a run has one, and a second one if the evaluations
    do not divide its rounds. A small form that clients go over to makes new ones.

    Attributes:
      traces: how often the round's Python was run.
      programs: how many were compiled.
      compile_seconds: what tracing and compiling took, all together.
    """

    def __init__(self, federation: Federation, placement: Placement, key: Key):
        self.traces = 0
        self.compile_seconds = 0.0
        self._federation, self._placement = federation, placement
        self._key = placement.repeat(key)
        held = placement.repeat(held_examples(federation.dataset))
        self._data = (placement.put_clients(federation.clients), held)
        self._compiled: dict[tuple[int, Any], Any] = {}

    @property
    def programs(self) -> int:
        """How many programs were compiled."""
        return len(self._compiled)

    @property
    def clients(self) -> ClientData:
        """The clients' data where the program wants it."""
        return self._data[0]

    def _evaluate(self, variables: Any, held: Held) -> Evaluations:
        federation, mesh = self._federation, self._placement.mesh
        batches: CohortMap = chunked(1)
        if mesh.size > 1:
            batches = sharded(mesh, batches)
        return {
            name: evaluate(
                federation.model.apply,
                federation.task.loss_fn,
                variables,
                examples,
                metric_fn=federation.task.metric_fn,
                batch_size=evaluation_batch(examples.x.shape[1:]),
                batches=batches,
            )
            for name, examples in held.items()
        }

    def compile(self, state: State, rounds: int) -> None:
        """Makes the program of that many rounds, unless it is there already.

        Args:
          state: what it will be given, where it will lie.
          rounds: how many in a row.
        """
        if self._variant(rounds) in self._compiled:
            return
        algorithm = self._algorithm

        def federated_round(
            key: Key, state: State, clients: ClientData, held: Held
        ) -> tuple[State, RoundInfo, Evaluations]:
            def play(state: State, _: None) -> tuple[State, RoundInfo]:
                self.traces += 1
                return algorithm.step(round_key(key, state.round), state, clients)

            if rounds == 1:  # without a loop, which XLA would not see through
                state, info = play(state, None)
                infos = jax.tree.map(lambda leaf: leaf[None], info)
            else:
                state, infos = jax.lax.scan(play, state, length=rounds)
            return state, infos, self._evaluate(algorithm.model(state), held)

        start = time.perf_counter()
        everywhere = self._placement.everywhere
        jitted = jax.jit(
            federated_round,
            donate_argnums=1,
            out_shardings=(self._placement.of_state(state), everywhere, everywhere),
        )
        lowered = jitted.lower(self._key, state, *self._data)
        self._compiled[self._variant(rounds)] = lowered.compile()
        self.compile_seconds += time.perf_counter() - start

    def reading(self, directory: Path) -> contextlib.AbstractContextManager[object]:
        """The context in which rounds are played; data in memory need none."""
        del directory
        return contextlib.nullcontext()

    def __call__(
        self, state: State, rounds: int = 1
    ) -> tuple[State, RoundInfo, Evaluations]:
        """Plays rounds; the old state is donated.

        Returns:
          The state, what every round reports (``[rounds, ...]``), and the evaluations
          after the last of them.
        """
        self.compile(state, rounds)
        return self._compiled[self._variant(rounds)](self._key, state, *self._data)

    def look(self, state: State, rounds_left: int) -> None:
        """Lets clients go over to a small form, if the run may and it pays."""
        if self._federation.sparse:
            self._federation.sparse.look(state.masks, rounds_left)

    @property
    def _algorithm(self) -> FederatedAlgorithm:
        """What plays the next rounds."""
        sparse = self._federation.sparse
        return sparse.algorithm if sparse else self._federation.algorithm

    def _variant(self, rounds: int) -> tuple[int, Any]:
        """What tells the programs of a run apart."""
        sparse = self._federation.sparse
        return rounds, sparse and sparse.form and sparse.form.plan

"""The compiled program of a run: some rounds and the evaluation after them."""

import time
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from fedsparsify_jax import masks
from fedsparsify_jax.client_map import ClientMap, chunked, sharded
from fedsparsify_jax.data import Dataset
from fedsparsify_jax.metrics import Evaluation, evaluate, evaluate_clients
from fedsparsify_jax.metrics.prediction import examples_at_once
from fedsparsify_jax.runner.programs.federation import Federation, round_key
from fedsparsify_jax.runner.programs.sources import DataSource, RoundData, run_round
from fedsparsify_jax.training.compact.wrapper import Form
from fedsparsify_jax.types import (
    ApplyFn,
    ClientRows,
    Examples,
    FederatedAlgorithm,
    Key,
    Masks,
    PyTree,
    RoundInfo,
    State,
    Variables,
)

EvaluationSets = dict[str, Examples]
"""Examples for evaluation alone: ``test``, and ``validation`` where there is one."""
Evaluations = dict[str, Evaluation]
"""Results on each of them, by the name that metrics.jsonl has for it."""


class Report(NamedTuple):
    """A round's results in one run, on the host."""

    info: RoundInfo
    evaluations: Evaluations  # to be ignored unless an evaluation was due
    # [clients with tests] accuracies, to be ignored likewise; None if none is evaluated
    clients: Any = None


def evaluation_sets(dataset: Dataset) -> EvaluationSets:
    """Returns what the model is evaluated on."""
    sets = {"test": dataset.test}
    if dataset.validation is not None:
        sets["validation"] = dataset.validation
    return {name: Examples(*map(np.asarray, part)) for name, part in sets.items()}


def network_of(
    federation: Federation, algorithm: FederatedAlgorithm, state: State
) -> tuple[ApplyFn, Variables]:
    """Returns the network to evaluate, which may be a part of the model."""
    if algorithm.evaluated is not None:
        return algorithm.evaluated(state)
    return federation.model.apply, algorithm.model(state)


def evaluate_sets(
    federation: Federation,
    network: tuple[ApplyFn, Variables],
    sets: EvaluationSets,
    batches: ClientMap,
) -> Evaluations:
    """Evaluates on every set, at most 1000 examples or 2^18 inputs at a time."""
    apply_fn, variables = network
    return {
        name: evaluate(
            apply_fn,
            federation.task.loss_fn,
            variables,
            examples,
            metric_fn=federation.task.metric_fn,
            batch_size=examples_at_once(examples.x.shape[1:]),
            batches=batches,
        )
        for name, examples in sets.items()
    }


def evaluate_compact(
    federation: Federation,
    form: Form,
    kept: Masks,
    network: tuple[ApplyFn, Variables],
    sets: EvaluationSets,
    batches: ClientMap,
) -> Evaluations:
    """Evaluates on a compact form if masks and model fit it, in full otherwise.

    A model that is averaged, or pruned later than its masks, may have more weights.
    """
    apply_fn, variables = network
    index = form.index(kept)
    small = (form.apply(index), form.compact(index, variables))
    return jax.lax.cond(
        index.fits & masks.holds(kept, variables),
        lambda: evaluate_sets(federation, small, sets, batches),
        lambda: evaluate_sets(federation, (apply_fn, variables), sets, batches),
    )


def evaluate_each(
    federation: Federation,
    algorithm: FederatedAlgorithm,
    state: State,
    test: Examples,
    tests: ClientRows | None,
    clients: ClientMap,
) -> jax.Array | None:
    """Evaluates the model of every client on its test examples; None without any."""
    if tests is None:
        return None
    apply_fn, _ = network_of(federation, algorithm, state)

    def of_all(state: State, client: jax.Array) -> Variables:
        return network_of(federation, algorithm, state)[1]

    return evaluate_clients(
        apply_fn,
        algorithm.client_model or of_all,
        state,
        test,
        tests,
        metric_fn=federation.task.metric_fn,
        batch_size=examples_at_once(test.x.shape[1:]),
        clients=clients,
    )


def with_tests(accuracies: Any, tests: ClientRows | None) -> Any:
    """Returns the accuracies of the clients that have test examples; None without any.

    >>> with_tests(np.array([0.5, 0.0]), ClientRows(None, np.array([4, 0]))).tolist()
    [0.5]
    """
    return None if tests is None else np.asarray(accuracies)[tests.sizes > 0]


def unstack(tree: PyTree, number: int) -> list[Any]:
    """Returns the first entries along the leading axis, each as a tree.

    >>> unstack({"a": np.array([1.0, 2.0, 3.0])}, 2)
    [{'a': np.float64(1.0)}, {'a': np.float64(2.0)}]
    """
    return [jax.tree.map(lambda leaf, n=n: leaf[n], tree) for n in range(number)]


class Rounds(Protocol):
    """The rounds of a run: `RoundProgram`, or the same elsewhere.

    Attributes:
      traces: how often the round's Python was run.
      programs: how many programs were compiled.
      compile_seconds: what that took.
    """

    traces: int
    compile_seconds: float

    @property
    def programs(self) -> int: ...

    def prepare(self, state: State, rounds: int, completed: int) -> None: ...

    def compile(self, state: State, rounds: int) -> None: ...

    def __call__(
        self, state: State, rounds: int, data: RoundData
    ) -> tuple[State, list[Report]]: ...


class RoundProgram:
    """Federated rounds and the evaluation after the last of them, as one program.

    Compiling ahead of time leaves no second compilation to happen by accident: a state
    of another shape, dtype or placement would be an error. Each number of rounds in a
    row is a program of its own, so a run has one, and a second one if the evaluations
    do not divide its rounds. A compact form that clients go over to makes new ones.

    Attributes:
      traces: how often the round's Python was run.
      compile_seconds: what tracing and compiling took, all together.
    """

    def __init__(self, federation: Federation, source: DataSource, key: Key):
        placement = federation.placement
        self.traces = 0
        self.compile_seconds = 0.0
        self._federation, self._source = federation, source
        self._key = placement.repeat(key)
        sets = (evaluation_sets(federation.dataset), federation.tests)
        self._sets = placement.repeat(sets)
        self._compiled: dict[tuple[int, Any], Any] = {}
        batches = chunked(1)
        several = placement.mesh.size > 1
        self._batches = sharded(placement.mesh, batches) if several else batches

    @property
    def programs(self) -> int:
        """Returns how many programs were compiled."""
        return len(self._compiled)

    def prepare(self, state: State, rounds: int, completed: int) -> None:
        """Compiles what the next call needs.

        Before that, clients go over to a compact form if the run may and it pays.

        Args:
          state: of the next call, where it lies.
          rounds: of the next call.
          completed: rounds of the run before it.
        """
        if self._federation.compact:
            self._federation.compact.update(state.variables, state.masks, completed)
        self.compile(state, rounds)

    def compile(self, state: State, rounds: int) -> None:
        """Makes the program of that many rounds in a row, unless there is one."""
        variant = self._variant(rounds)
        if variant in self._compiled:
            return
        algorithm = (self._federation.compact or self._federation).algorithm

        def federated_round(
            key: Key,
            state: State,
            data: RoundData,
            evaluated: tuple[EvaluationSets, ClientRows | None],
        ) -> tuple[State, RoundInfo, tuple[Evaluations, jax.Array | None]]:
            def run(state: State, cohort: PyTree) -> tuple[State, RoundInfo]:
                self.traces += 1
                now = round_key(key, state.round)
                return run_round(algorithm, now, state, data.fixed, cohort)

            if rounds == 1:  # without a loop, which XLA would not see through
                only = jax.tree.map(lambda leaf: leaf[0], data.cohorts)
                state, info = run(state, only)
                infos = jax.tree.map(lambda leaf: leaf[None], info)
            else:
                state, infos = jax.lax.scan(run, state, data.cohorts, length=rounds)
            (sets, tests), batches = evaluated, self._batches
            network = network_of(self._federation, algorithm, state)
            evaluations = self._evaluate(algorithm, network, state.masks, sets)
            each = evaluate_each(
                self._federation, algorithm, state, sets["test"], tests, batches
            )
            return state, infos, (evaluations, each)

        start = time.perf_counter()
        placement = self._federation.placement
        everywhere = placement.everywhere
        jitted = jax.jit(
            federated_round,
            donate_argnums=1,
            out_shardings=(placement.of_state(state), everywhere, everywhere),
        )
        shapes = self._source.shapes(rounds)
        lowered = jitted.lower(self._key, state, shapes, self._sets)
        self._compiled[variant] = lowered.compile()
        self.compile_seconds += time.perf_counter() - start

    def __call__(
        self, state: State, rounds: int, data: RoundData
    ) -> tuple[State, list[Report]]:
        """Runs rounds, as many as ``data`` are of; the old state is donated.

        Returns:
          The state, and what every round reports, with the evaluations after the last.
        """
        self.compile(state, rounds)
        program = self._compiled[self._variant(rounds)]
        state, infos, evaluations = program(self._key, state, data, self._sets)
        infos, (evaluations, each) = jax.device_get((infos, evaluations))
        clients = with_tests(each, self._federation.tests)
        return state, [
            Report(info=info, evaluations=evaluations, clients=clients)
            for info in unstack(infos, rounds)
        ]

    def _evaluate(
        self,
        algorithm: FederatedAlgorithm,
        network: tuple[ApplyFn, Variables],
        masks: Masks,
        sets: EvaluationSets,
    ) -> Evaluations:
        """Evaluates a network, on a compact form if there is one for it."""
        federation, batches = self._federation, self._batches
        form = federation.compact.evaluation if federation.compact else None
        if form is None or algorithm.evaluated is not None:
            return evaluate_sets(federation, network, sets, batches)
        return evaluate_compact(federation, form, masks, network, sets, batches)

    def _variant(self, rounds: int) -> tuple[int, Any]:
        """Returns what distinguishes the programs of a run."""
        compact = self._federation.compact
        return rounds, compact and compact.form and compact.form.plan

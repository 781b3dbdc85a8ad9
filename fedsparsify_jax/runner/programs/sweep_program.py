"""The rounds of a program group, trials that differ in numbers, as one program."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fedsparsify_jax import client_map, trees
from fedsparsify_jax.algorithms.registry import ALGORITHMS
from fedsparsify_jax.data import Dataset
from fedsparsify_jax.engine import sweeps
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.options.sweep_grid import Trial, traced
from fedsparsify_jax.runner.programs.federation import (
    Federation,
    Keys,
    algorithm_of,
    memory_of_clients,
    partition,
    round_key,
)
from fedsparsify_jax.runner.programs.natural import tests_of
from fedsparsify_jax.runner.programs.placement import (
    client_map_of_trial,
    cohort_map,
    sharded_by_trial,
    trial_map,
)
from fedsparsify_jax.runner.programs.program import (
    EvaluationSets,
    Report,
    evaluate_each,
    evaluate_sets,
    evaluation_sets,
    network_of,
    unstack,
    with_tests,
)
from fedsparsify_jax.runner.programs.spared import spared_layers
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    ClientRows,
    Examples,
    FederatedAlgorithm,
    Key,
    State,
    nothing_more,
)

AT_MOST = 10
"""Rounds in one call of the program."""


class TrialData(NamedTuple):
    """Data of one trial in the program; stacked ``[S, ...]``."""

    hyper: dict[str, jax.Array]  # traced options
    key: Key  # of its rounds
    rows: jax.Array  # [N, M] int32: which training examples the clients hold
    sizes: jax.Array  # [N] int32: real ones of the M
    tests: ClientRows | None = None  # of the test set, if each client is evaluated


class Shared(NamedTuple):
    """Data that all trials have in common."""

    rounds: jax.Array  # int32 scalar: how many to run now, at most AT_MOST
    train: Examples
    sets: EvaluationSets


def partitions(group: Sequence[Trial], dataset: Dataset) -> dict[int, list[np.ndarray]]:
    """Returns the partition of every seed; within a group it depends on nothing else.

    Raises:
      InputError: if one cannot be made.
    """
    configs = {trial.config.seed: trial.config for trial in group}
    return {
        seed: partition(config, dataset.train.y, dataset.owners)
        for seed, config in configs.items()
    }


def _trial_data(federation: Federation, group: Sequence[Trial]) -> TrialData:
    """Returns partitions, keys and traced options of a group.

    Clients are as long as the longest of all trials; what a client draws does not
    depend on its padding.
    """
    parts_by_seed = partitions(group, federation.dataset)
    length = max(len(part) for parts in parts_by_seed.values() for part in parts)
    clients = len(parts_by_seed[group[0].config.seed])
    rows = np.zeros((len(group), clients, length), np.int32)
    sizes = np.zeros((len(group), clients), np.int32)
    for number, trial in enumerate(group):
        for client, part in enumerate(parts_by_seed[trial.config.seed]):
            rows[number, client, : len(part)] = part
            sizes[number, client] = len(part)
    keys = [Keys.from_seed(trial.config.seed).rounds for trial in group]
    return TrialData(
        hyper={name: jnp.asarray(axis) for name, axis in traced(group).items()},
        key=jnp.stack(keys),
        rows=jnp.asarray(rows),
        sizes=jnp.asarray(sizes),
        tests=_tests(federation, group, parts_by_seed),
    )


def _tests(
    federation: Federation,
    group: Sequence[Trial],
    parts_by_seed: dict[int, list[np.ndarray]],
) -> ClientRows | None:
    """Returns the test rows of all trials' clients, as long as the longest."""
    if federation.tests is None:
        return None
    configs = {trial.config.seed: trial.config for trial in group}
    by_seed = {
        seed: tests_of(configs[seed], federation.dataset, parts)
        for seed, parts in parts_by_seed.items()
    }
    length = max(tests.rows.shape[1] for tests in by_seed.values())
    every = [by_seed[trial.config.seed] for trial in group]
    rows = [np.pad(t.rows, [(0, 0), (0, length - t.rows.shape[1])]) for t in every]
    sizes = np.stack([tests.sizes for tests in every])
    return ClientRows(jnp.asarray(np.stack(rows)), jnp.asarray(sizes))


def _counted(trial: Trial, clients: int) -> Trial:
    """Returns a trial with its clients, which the data count if they are natural."""
    count: dict[str, Any] = {"num_clients": clients}
    return trial._replace(config=dataclasses.replace(trial.config, **count))


class GroupProgram:
    """Up to `AT_MOST` rounds of every trial of a group, traced and compiled once.

    The training set is on every device once; a trial has row numbers into it. Trials
    are divided over the devices, or all devices share the clients of one trial after
    another, as in `train`: see `placement.sharded_by_trial`.

    Args:
      federation: of any trial of the group.
      group: trials that agree in everything but traced options and seeds.
      devices: to divide the trials over.
      inner: how one device runs its trials, see `placement.trial_map`.

    Attributes:
      compile_seconds: what tracing and compiling took.
      shapes: of a trial's state.
    """

    def __init__(
        self,
        federation: Federation,
        group: Sequence[Trial],
        devices: list[Any],
        inner: client_map.ClientMap | None = None,
    ):
        group = [_counted(trial, len(federation.parts)) for trial in group]
        # Who shares the hardware how.
        config, mesh = group[0].config, client_map.device_mesh(devices)
        options = dataclasses.asdict(config)
        by_trial = sharded_by_trial(len(group), options, devices)
        one_by_one, model = client_map.chunked(1), federation.model
        taken = memory_of_clients(options, model, federation.dataset, federation.parts)
        if by_trial:
            self._clients = client_map_of_trial(
                options, model, devices, taken, len(group)
            )
            self._batches, trials = one_by_one, trial_map(devices, inner)
        else:
            self._clients = cohort_map(options, model, mesh, taken)
            self._batches = client_map.sharded(mesh, one_by_one)
            trials = inner or one_by_one
        # Where devices share clients, each gets the examples of its clients.
        row = ALGORITHMS[config.algorithm]
        self._by_row = by_trial and not row.reads_examples
        # Copies of the last trial fill the devices up; their results are ignored.
        missing = -len(group) % len(devices) if by_trial else 0
        self._federation, self._trials = federation, list(group)
        self._padded = padded = [*group, *[group[-1]] * missing]

        # What is on the devices.
        axis = client_map.AXIS if by_trial else None
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        divided = NamedSharding(mesh, PartitionSpec(axis))
        dataset = federation.dataset
        train = Examples(*map(np.asarray, dataset.train))
        shared = Shared(jnp.int32(1), train, evaluation_sets(dataset))
        self._shared: Shared = jax.device_put(shared, self._everywhere)
        trial_data = _trial_data(federation, padded)
        self._data = jax.device_put(trial_data, divided)
        every = jax.device_get(trial_data.tests)
        self._tests = [
            None if every is None else trees.take(every, n) for n in range(len(group))
        ]

        # The program, of states that need not be there yet.
        start = time.perf_counter()
        self._init_model = jax.jit(model.init)
        self.shapes = one = jax.eval_shape(lambda: self._first_state(group[0]))
        states: Any = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (len(padded), *leaf.shape), leaf.dtype, sharding=divided
            ),
            one,
        )
        number = jax.ShapeDtypeStruct((), jnp.int32, sharding=self._everywhere)
        states = states._replace(round=number)
        self._places = jax.tree.map(lambda leaf: leaf.sharding, states)
        jitted = jax.jit(
            sweeps.over_trials(self._run, trials),
            donate_argnums=0,
            out_shardings=(self._places, divided),
        )
        self._compiled = jitted.lower(states, self._shared, self._data).compile()
        self.compile_seconds = time.perf_counter() - start

    def _first_state(self, trial: Trial) -> State:
        keys = Keys.from_seed(trial.config.seed)
        variables = self._init_model(keys.model)
        algorithm = self._algorithm(trial, self._federation.model)
        return algorithm.init(keys.state, variables)

    def init(self) -> State:
        """Returns the states of all trials before round 1."""
        states = sweeps.stack_states([self._first_state(t) for t in self._padded])
        return jax.device_put(states, self._places)

    def _algorithm(
        self, trial: Trial, model: Model, **changed: Any
    ) -> FederatedAlgorithm:
        dataset, whole = self._federation.dataset, self._federation.model
        # By the network that takes examples: `model` may take their rows.
        changed["spare"] = spared_layers(trial.config.spare, whole, dataset)
        return algorithm_of(trial.config, model, dataset, self._clients, **changed)

    def _clients_of(
        self, trial: TrialData, train: Examples
    ) -> tuple[Model, ClientData]:
        """Returns a trial's clients, and the model that takes their examples."""
        model, y = self._federation.model, train.y[trial.rows]
        if not self._by_row:
            return model, ClientData(train.x[trial.rows], y, trial.sizes)

        # The clients have row numbers for examples and the model looks the rows up
        # batch by batch, so that the training set is never copied.
        def of_rows(apply_fn: ApplyFn) -> ApplyFn:
            return lambda variables, x, **more: apply_fn(variables, train.x[x], **more)

        return model.seen_through(of_rows), ClientData(trial.rows, y, trial.sizes)

    def _run(self, state: State, shared: Shared, trial: TrialData) -> Any:
        """Runs the next rounds of a trial; what is beyond ``shared.rounds`` is zero."""
        model, clients = self._clients_of(trial, shared.train)
        algorithm = self._algorithm(self._trials[0], model, **trial.hyper)
        # The sets to evaluate on have examples, not their rows.
        plain = self._algorithm(self._trials[0], self._federation.model, **trial.hyper)

        def one_round(state: State) -> tuple[State, Report]:
            key = round_key(trial.key, state.round)
            state, info = algorithm.step(key, state, clients)
            evaluated = self._evaluate(plain, state, shared.sets, trial.tests)
            return state, Report(info, *evaluated)

        def add(number: jax.Array, carry: Any) -> Any:
            state, reports = carry
            state, report = one_round(state)
            return state, jax.tree.map(
                lambda rows, row: rows.at[number].set(row), reports, report
            )

        _, shapes = jax.eval_shape(one_round, state)
        reports = jax.tree.map(
            lambda leaf: jnp.zeros((AT_MOST, *leaf.shape), leaf.dtype), shapes
        )
        return jax.lax.fori_loop(0, shared.rounds, add, (state, reports))

    def _evaluate(
        self,
        algorithm: FederatedAlgorithm,
        state: State,
        sets: EvaluationSets,
        tests: ClientRows | None,
    ) -> Any:
        """Evaluates after the rounds that `train` does; zero for the others."""
        config, completed = self._trials[0].config, state.round

        def now() -> Any:
            federation, batches, test = self._federation, self._batches, sets["test"]
            network = network_of(federation, algorithm, state)
            return (
                evaluate_sets(federation, network, sets, batches),
                evaluate_each(federation, algorithm, state, test, tests, batches),
            )

        if config.evaluate_every == 1:
            return now()
        due = (completed % config.evaluate_every == 0) | (completed == config.rounds)
        shapes = jax.eval_shape(now)
        return jax.lax.cond(
            due,
            now,
            lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes),
        )

    def __call__(self, state: State, rounds: int) -> tuple[State, list[list[Report]]]:
        """Runs ``rounds`` more rounds (at most `AT_MOST`) of every trial.

        Args:
          state: of all trials; donated.
          rounds: how many.

        Returns:
          The state, and what is reported of every trial and round.
        """
        now = jax.device_put(jnp.int32(rounds), self._everywhere)
        shared = self._shared._replace(rounds=now)
        state, results = self._compiled(state, shared, self._data)
        trials = unstack(jax.device_get(results), len(self._trials))
        return state, [
            [
                report._replace(clients=with_tests(report.clients, tests))
                for report in unstack(reports, rounds)
            ]
            for reports, tests in zip(trials, self._tests, strict=True)
        ]

    def finished(self, states: State) -> Iterator[State]:
        """Yields the state of every trial after its algorithm's post-training."""
        plain = [self._algorithm(t, self._federation.model) for t in self._trials]
        # One copy, for picking a trial from divided arrays takes a transfer a leaf.
        states = jax.device_get(states)
        for number, algorithm in enumerate(plain):
            state = sweeps.trial_state(states, number)
            if algorithm.finish is not nothing_more:
                state = self._after(state, number)
            yield state

    def _after(self, state: State, number: int) -> State:
        """Returns the state of a trial after post-training."""
        trial = self._trials[number]
        data: TrialData = jax.tree.map(lambda leaf: leaf[number], self._data)
        model, clients = self._clients_of(data, self._shared.train)
        key = Keys.from_seed(trial.config.seed).of_finish()
        state = jax.tree.map(jnp.asarray, state)
        return self._algorithm(trial, model).finish(key, state, clients)

"""The rounds of a group of cells as one compiled program."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import cohort, sweeps
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.metrics import Evaluation, evaluate
from fedsparsify_jax.runner.federation import Federation, partition
from fedsparsify_jax.runner.methods import build_algorithm
from fedsparsify_jax.runner.sweep_grid import Cell, traced
from fedsparsify_jax.runner.training import Keys, evaluation_batch
from fedsparsify_jax.types import (
    ClientData,
    Examples,
    FederatedAlgorithm,
    Key,
    RoundInfo,
    State,
)

AT_MOST = 10
"""Rounds in one call of the program."""


class Column(NamedTuple):
    """What is a cell's own in the program; stacked ``[S, ...]``."""

    hyper: dict[str, jax.Array]  # traced options
    key: Key  # of its rounds
    rows: jax.Array  # [N, M] int32: which training examples the clients hold
    count: jax.Array  # [N] int32


class Shared(NamedTuple):
    """What all cells have in common."""

    rounds: jax.Array  # int32 scalar: how many to play now, at most AT_MOST
    train: Examples
    test: Examples


def algorithm_of(
    federation: Federation, cell: Cell, **changed: Any
) -> FederatedAlgorithm:
    """The algorithm of a cell, with some options replaced (by traced ones, say).

    Raises:
      InputError: for options that do not go together.
    """
    options: dict[str, Any] = dataclasses.asdict(cell.config) | changed
    try:
        return build_algorithm(options, federation.model, federation.task)
    except ValueError as error:
        raise InputError(f"{cell.config.algorithm}: {error}") from error


def _columns(federation: Federation, group: Sequence[Cell]) -> Column:
    """Partitions, keys and traced options of a group.

    Clients are as long as the longest of all cells; what a client draws does not depend
    on its padding.
    """
    targets = federation.dataset.train.y
    divided: dict[int, list[np.ndarray]] = {}
    for cell in group:
        if cell.config.seed not in divided:
            divided[cell.config.seed] = partition(cell.config, targets)
    length = max(len(part) for parts in divided.values() for part in parts)
    clients = len(next(iter(divided.values())))
    rows = np.zeros((len(group), clients, length), np.int32)
    count = np.zeros((len(group), clients), np.int32)
    for number, cell in enumerate(group):
        for client, part in enumerate(divided[cell.config.seed]):
            rows[number, client, : len(part)] = part
            count[number, client] = len(part)
    hyper = {name: jnp.asarray(column) for name, column in traced(group).items()}
    keys = jnp.stack([Keys.from_seed(cell.config.seed).rounds for cell in group])
    return Column(hyper, keys, jnp.asarray(rows), jnp.asarray(count))


def clients_of(column: Column, train: Examples) -> ClientData:
    """The clients of one cell, gathered from the training set."""
    return ClientData(train.x[column.rows], train.y[column.rows], column.count)


class GroupProgram:
    """Up to `AT_MOST` rounds of every cell, traced and compiled once.

    The training set is on every device once; a cell has row numbers into it. On several
    devices every device has its share of the cells, and the clients of a round stay
    together.

    Args:
      federation: of any cell of the group.
      group: cells that agree in everything but traced options and seeds.
      devices: the local ones by default.
      inner: how one device runs its cells. By default one after another on CPU, where
        the clients of one cell fill the caches, and all at once elsewhere.

    Attributes:
      state: the states of all cells.
      compile_seconds: what tracing and compiling took.
    """

    def __init__(
        self,
        federation: Federation,
        group: Sequence[Cell],
        *,
        devices: Sequence[jax.Device] | None = None,
        inner: cohort.CohortMap | None = None,
    ):
        self._federation, self._group = federation, list(group)
        train, test = (
            Examples(*map(jnp.asarray, part))
            for part in (federation.dataset.train, federation.dataset.test)
        )
        self._columns = _columns(federation, group)
        self._shared = Shared(jnp.int32(1), train, test)
        self.state = sweeps.stack_states([self._first_state(cell) for cell in group])
        start = time.perf_counter()
        run = sweeps.over_cells(self._play, _mapping(devices, inner, len(group)))
        jitted = jax.jit(run, donate_argnums=0)
        arguments = (self.state, self._shared, self._columns)
        self._compiled = jitted.lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - start

    def _first_state(self, cell: Cell) -> State:
        keys = Keys.from_seed(cell.config.seed)
        algorithm = algorithm_of(self._federation, cell)
        return algorithm.init(keys.state, self._federation.model.init(keys.model))

    def _play(self, state: State, shared: Shared, column: Column) -> Any:
        """The next rounds of one cell; what is beyond ``shared.rounds`` is zero."""
        algorithm = algorithm_of(self._federation, self._group[0], **column.hyper)
        clients = clients_of(column, shared.train)

        def one_round(state: State) -> tuple[State, tuple[RoundInfo, Evaluation]]:
            key = jax.random.fold_in(column.key, state.round + 1)
            state, info = algorithm.step(key, state, clients)
            return state, (info, self._evaluate(algorithm.model(state), shared.test))

        nothing = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(one_round, state)[1],
        )

        def maybe(state: State, number: jax.Array) -> Any:
            return jax.lax.cond(
                number < shared.rounds,
                one_round,
                lambda state: (state, nothing),
                state,
            )

        return jax.lax.scan(maybe, state, jnp.arange(AT_MOST))

    def _evaluate(self, variables: Any, test: Examples) -> Evaluation:
        model, task = self._federation.model, self._federation.task
        return evaluate(
            model.apply,
            task.loss_fn,
            variables,
            test,
            metric_fn=task.metric_fn,
            batch_size=evaluation_batch(test.x.shape[1:]),
        )

    def __call__(self, rounds: int) -> tuple[RoundInfo, Evaluation]:
        """Plays ``rounds`` more rounds (at most `AT_MOST`) of every cell.

        Returns:
          What they report, on the host: leaves ``[S, AT_MOST, ...]``, of which the
          first ``rounds`` of the second axis count.
        """
        shared = self._shared._replace(rounds=jnp.int32(rounds))
        self.state, results = self._compiled(self.state, shared, self._columns)
        reported: tuple[RoundInfo, Evaluation] = jax.device_get(results)
        return reported

    def finished(self, number: int) -> State:
        """The state of one cell after its algorithm's post-training."""
        cell, keys = self._group[number], Keys.from_seed(self._group[number].config.seed)
        state = sweeps.cell_state(self.state, number)
        column = jax.tree.map(lambda leaf: leaf[number], self._columns)
        clients = clients_of(column, self._shared.train)
        algorithm = algorithm_of(self._federation, cell)
        return algorithm.finish(keys.of_round(0), state, clients)


def _mapping(
    devices: Sequence[jax.Device] | None, inner: cohort.CohortMap | None, cells: int
) -> cohort.CohortMap:
    """How cells share the hardware."""
    chosen = list(jax.local_devices() if devices is None else devices)[:cells]
    if inner is None:
        on_cpu = chosen[0].platform == "cpu"
        inner = cohort.chunked(1) if on_cpu else cohort.vmapped()
    if len(chosen) == 1:
        return inner
    return cohort.sharded(cohort.device_mesh(chosen), inner)

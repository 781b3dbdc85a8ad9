"""The rounds of a group of cells as one compiled program."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fedsparsify_jax import client_map
from fedsparsify_jax.engine import sweeps
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.metrics import evaluate
from fedsparsify_jax.runner.options.registry import build_algorithm
from fedsparsify_jax.runner.options.sweep_grid import Cell, traced
from fedsparsify_jax.runner.programs.federation import Federation, Keys, partition
from fedsparsify_jax.runner.programs.placement import (
    cells_apart,
    clients_together,
    cohort_map,
    over_devices,
)
from fedsparsify_jax.runner.programs.program import (
    Evaluations,
    Held,
    evaluation_batch,
    held_examples,
    round_key,
)
from fedsparsify_jax.types import (
    ClientData,
    Examples,
    FederatedAlgorithm,
    Key,
    RoundInfo,
    State,
    Variables,
)

AT_MOST = 10
"""Rounds in one call of the program."""


class Column(NamedTuple):
    """What is a cell's own in the program; stacked ``[S, ...]``."""

    hyper: dict[str, jax.Array]  # traced options
    key: Key  # of its rounds
    rows: jax.Array  # [N, M] int32: which training examples the clients hold
    sizes: jax.Array  # [N] int32: real ones of the M


class Shared(NamedTuple):
    """What all cells have in common."""

    rounds: jax.Array  # int32 scalar: how many to play now, at most AT_MOST
    train: Examples
    held: Held


def algorithm_of(
    federation: Federation,
    cell: Cell,
    together: client_map.CohortMap,
    **changed: Any,
) -> FederatedAlgorithm:
    """The algorithm of a cell.

    Args:
      federation: of a cell of the same group.
      cell: which one.
      together: how the clients of a round are run.
      **changed: options in place of the cell's own, traced numbers for instance.

    Raises:
      InputError: for options that do not go together.
    """
    options: dict[str, Any] = dataclasses.asdict(cell.config) | changed
    try:
        return build_algorithm(
            options,
            federation.model,
            federation.task,
            together,
            num_classes=federation.dataset.num_classes,
        )
    except ValueError as error:
        raise InputError(f"{cell.config.algorithm}: {error}") from error


def partitions(
    group: Sequence[Cell], targets: np.ndarray
) -> dict[int, list[np.ndarray]]:
    """The partition of every seed of a group; it depends on nothing else in there.

    Raises:
      InputError: if one cannot be made.
    """
    configs = {cell.config.seed: cell.config for cell in group}
    return {seed: partition(config, targets) for seed, config in configs.items()}


def _columns(federation: Federation, group: Sequence[Cell]) -> Column:
    """Partitions, keys and traced options of a group.

    Clients are as long as the longest of all cells; what a client draws does not depend
    on its padding.
    """
    divided = partitions(group, federation.dataset.train.y)
    length = max(len(part) for parts in divided.values() for part in parts)
    clients = len(divided[group[0].config.seed])
    rows = np.zeros((len(group), clients, length), np.int32)
    sizes = np.zeros((len(group), clients), np.int32)
    for number, cell in enumerate(group):
        for client, part in enumerate(divided[cell.config.seed]):
            rows[number, client, : len(part)] = part
            sizes[number, client] = len(part)
    hyper = {name: jnp.asarray(column) for name, column in traced(group).items()}
    keys = jnp.stack([Keys.from_seed(cell.config.seed).rounds for cell in group])
    return Column(hyper, keys, jnp.asarray(rows), jnp.asarray(sizes))


LOOKS_AT_EXAMPLES = ("synflow",)
"""Algorithms that look at the examples themselves, not only through the model."""


def _with_rows(
    federation: Federation, column: Column, train: Examples
) -> tuple[Federation, ClientData]:
    """One cell's clients, and the federation whose model takes their examples.

    The clients have row numbers for examples and the model looks the rows up batch by
    batch, so that the training set is never copied.
    """
    apply = federation.model.apply

    def looked_up(variables: Variables, x: jax.Array, **more: Any) -> Any:
        return apply(variables, train.x[x], **more)

    model = federation.model._replace(apply=looked_up)
    clients = ClientData(column.rows, train.y[column.rows], column.sizes)
    return federation._replace(model=model), clients


class GroupProgram:
    """Up to `AT_MOST` rounds of every cell, traced and compiled once.

    The training set is on every device once; a cell has row numbers into it.

    Args:
      federation: of any cell of the group.
      group: cells that agree in everything but traced options and seeds.
      devices: to divide the cells over.
      inner: how one device runs its cells, see `over_devices`.

    Attributes:
      state: the states of all cells.
      compile_seconds: what tracing and compiling took.
    """

    def __init__(
        self,
        federation: Federation,
        group: Sequence[Cell],
        devices: list[Any],
        inner: client_map.CohortMap | None = None,
    ):
        # Where cells are not apart, all devices share the clients of one cell after
        # another, as in `train`.
        algorithm = group[0].config.algorithm
        options = dataclasses.asdict(group[0].config)
        apart = cells_apart(len(group), options, devices)
        missing = -len(group) % len(devices) if apart else 0
        # Where devices share clients, each gets the examples of its own.
        self._by_row = apart and algorithm not in LOOKS_AT_EXAMPLES
        # Copies of the last cell fill the devices up; nobody looks at them.
        self._group = [*group, *[group[-1]] * missing]
        self._federation = federation
        mesh = client_map.device_mesh(devices)
        one_by_one = client_map.chunked(1)
        if apart:
            self._together = clients_together(options, federation.model, devices)
            self._batches = one_by_one
        else:
            self._together = cohort_map(options, federation.model, devices, mesh)
            self._batches = client_map.sharded(mesh, one_by_one)
        everywhere = NamedSharding(mesh, PartitionSpec())
        divided = NamedSharding(mesh, PartitionSpec(client_map.AXIS if apart else None))
        dataset = federation.dataset
        train = Examples(*map(np.asarray, dataset.train))
        shared = Shared(jnp.int32(1), train, held_examples(dataset))
        self._shared: Shared = jax.device_put(shared, everywhere)
        self._columns = jax.device_put(_columns(federation, self._group), divided)
        state = sweeps.stack_states([self._first_state(cell) for cell in self._group])
        places: Any = jax.tree.map(lambda _: divided, state)
        places = places._replace(round=everywhere)
        self.state: State = jax.device_put(state, places)
        start = time.perf_counter()
        cells = over_devices(devices, inner) if apart else inner or one_by_one
        run = sweeps.over_cells(self._play, cells)
        jitted = jax.jit(run, donate_argnums=0, out_shardings=(places, divided))
        lowered = jitted.lower(self.state, self._shared, self._columns)
        self._compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        self._everywhere = everywhere

    def _first_state(self, cell: Cell) -> State:
        keys = Keys.from_seed(cell.config.seed)
        algorithm = algorithm_of(self._federation, cell, self._together)
        return algorithm.init(keys.state, self._federation.model.init(keys.model))

    def _clients(
        self, column: Column, train: Examples
    ) -> tuple[Federation, ClientData]:
        """One cell's clients, and the federation whose model takes their examples."""
        if not self._by_row:
            x, y = train.x[column.rows], train.y[column.rows]
            return self._federation, ClientData(x, y, column.sizes)
        return _with_rows(self._federation, column, train)

    def _play(self, state: State, shared: Shared, column: Column) -> Any:
        """The next rounds of one cell; what is beyond ``shared.rounds`` is zero."""
        cell = self._group[0]
        federation, clients = self._clients(column, shared.train)
        algorithm = algorithm_of(federation, cell, self._together, **column.hyper)

        def one_round(state: State) -> tuple[State, tuple[RoundInfo, Evaluations]]:
            key = round_key(column.key, state.round)
            state, info = algorithm.step(key, state, clients)
            seen = self._evaluate(state.round, algorithm.model(state), shared.held)
            return state, (info, seen)

        def play(number: jax.Array, carry: Any) -> Any:
            state, reports = carry
            state, report = one_round(state)
            return state, jax.tree.map(
                lambda rows, row: rows.at[number].set(row), reports, report
            )

        shapes = jax.eval_shape(one_round, state)[1]
        reports = jax.tree.map(
            lambda leaf: jnp.zeros((AT_MOST, *leaf.shape), leaf.dtype), shapes
        )
        return jax.lax.fori_loop(0, shared.rounds, play, (state, reports))

    def _evaluate(
        self, completed: jax.Array, variables: Variables, held: Held
    ) -> Evaluations:
        """Of the rounds that `train` evaluates too; zero for the others."""
        model, task = self._federation.model, self._federation.task
        config = self._group[0].config

        def now() -> Evaluations:
            return {
                name: evaluate(
                    model.apply,
                    task.loss_fn,
                    variables,
                    examples,
                    metric_fn=task.metric_fn,
                    batch_size=evaluation_batch(examples.x.shape[1:]),
                    batches=self._batches,
                )
                for name, examples in held.items()
            }

        if config.evaluate_every == 1:
            return now()
        due = (completed % config.evaluate_every == 0) | (completed == config.rounds)
        shapes = jax.eval_shape(now)
        return jax.lax.cond(
            due,
            now,
            lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes),
        )

    def __call__(self, rounds: int) -> tuple[RoundInfo, Evaluations]:
        """Plays ``rounds`` more rounds (at most `AT_MOST`) of every cell.

        Returns:
          What they report, on the host: leaves ``[S, AT_MOST, ...]``, of which the
          first ``rounds`` of the second axis count.
        """
        now = jax.device_put(jnp.int32(rounds), self._everywhere)
        shared = self._shared._replace(rounds=now)
        self.state, results = self._compiled(self.state, shared, self._columns)
        reported: tuple[RoundInfo, Evaluations] = jax.device_get(results)
        return reported

    def finished(self, number: int) -> State:
        """The state of one cell after its algorithm's post-training."""
        cell = self._group[number]
        state = sweeps.cell_state(self.state, number)
        column: Column = jax.tree.map(lambda leaf: leaf[number], self._columns)
        federation, clients = self._clients(column, self._shared.train)
        algorithm = algorithm_of(federation, cell, self._together)
        key = Keys.from_seed(cell.config.seed).of_finish()
        return algorithm.finish(key, state, clients)

"""The compiled program of a run whose client data stay on disk.

The cohorts of the next rounds are read and put on the devices while the current ones
compute: who they are depends on the seed and the rounds' numbers alone.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fedsparsify_jax import data
from fedsparsify_jax.client_map import AXIS
from fedsparsify_jax.data.store.header import HEADER
from fedsparsify_jax.engine.sampling import cohort_size
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.programs.devices import Placement
from fedsparsify_jax.runner.programs.federation import Federation
from fedsparsify_jax.runner.programs.prefetch import Prefetcher
from fedsparsify_jax.runner.programs.program import (
    Evaluations,
    Held,
    RoundProgram,
    round_key,
)
from fedsparsify_jax.types import (
    ClientData,
    Key,
    RoundInfo,
    Scouts,
    State,
    nothing_more,
)


class _Cohorts(NamedTuple):
    """The clients of some rounds in a row."""

    ids: jax.Array  # [rounds, K] int32
    data: ClientData  # [rounds, K, M, ...]


def _sampling_device() -> Any:
    """Where cohorts are drawn: not on an accelerator, busy with the round before."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to do without the CPU
        return jax.local_devices()[0]


class DiskProgram(RoundProgram):
    """`RoundProgram` for client data on disk: same rounds, same results.

    Rounds are played inside `reading`.

    Args of the constructor:
      federation, placement, key: see `RoundProgram`.
      participation: share of the clients that takes part in a round.
      stop: completed rounds to where the next call stops, to read ahead for it.

    Raises:
      InputError: for an algorithm that needs all clients' data at a time.
    """

    def __init__(
        self,
        federation: Federation,
        placement: Placement,
        key: Key,
        *,
        participation: float,
        stop: Callable[[int], int],
    ):
        super().__init__(federation, placement, key)
        algorithm = federation.algorithm
        if algorithm.play is None or algorithm.finish is not nothing_more:
            raise InputError(
                "this algorithm needs the data of all clients at a time: use "
                "--client-data memory"
            )
        self._count = np.array([len(part) for part in federation.parts], np.int32)
        self._size = cohort_size(len(self._count), participation)
        self._stop = stop
        self._sampler_key = jax.device_put(key, _sampling_device())
        self._draw = jax.jit(self._cohorts, static_argnums=2)
        self._ids_of_scouts = self._choose_scouts()
        even = self._size % placement.mesh.size == 0
        spec = PartitionSpec(None, AXIS) if even else PartitionSpec()
        self._by_client = NamedSharding(placement.mesh, spec)

    def _choose_scouts(self) -> np.ndarray:
        assert self._federation.algorithm.scouts is not None
        first = round_key(self._sampler_key, jnp.int32(0))
        try:
            ids = self._federation.algorithm.scouts(first, jnp.asarray(self._count))
        except ValueError as error:
            raise InputError(f"{error}: use --client-data memory") from error
        return np.asarray(ids)

    def _shapes(self, *leading: int, sharding: NamedSharding) -> ClientData:
        """What is known of data before they are read; ids have the shape of counts."""

        def leaf(shape: tuple[int, ...], dtype: Any) -> Any:
            return jax.ShapeDtypeStruct((*leading, *shape), dtype, sharding=sharding)

        x, y = self._federation.dataset.train
        longest = int(self._count.max())
        return ClientData(
            leaf((longest, *x.shape[1:]), x.dtype),
            leaf((longest,), y.dtype),
            leaf((), jnp.int32),
        )

    def compile(self, state: State, rounds: int) -> None:
        """Makes the program of that many rounds, unless it is there already."""
        if self._variant(rounds) in self._compiled:
            return
        algorithm, step = self._algorithm, self._algorithm.play
        assert step is not None

        def federated_rounds(
            key: Key, state: State, cohorts: _Cohorts, scouts: Scouts, held: Held
        ) -> tuple[State, RoundInfo, Evaluations]:
            def play(state: State, cohort: _Cohorts) -> tuple[State, RoundInfo]:
                self.traces += 1
                key_now = round_key(key, state.round)
                return step(key_now, state, *cohort, scouts)

            if rounds == 1:  # without a loop, which XLA would not see through
                only = jax.tree.map(lambda leaf: leaf[0], cohorts)
                state, info = play(state, only)
                infos = jax.tree.map(lambda leaf: leaf[None], info)
            else:
                state, infos = jax.lax.scan(play, state, cohorts)
            return state, infos, self._evaluate(algorithm.model(state), held)

        start = time.perf_counter()
        everywhere, by_client = self._placement.everywhere, self._by_client
        cohorts = self._shapes(rounds, self._size, sharding=by_client)
        scouts = self._shapes(len(self._ids_of_scouts), sharding=everywhere)
        jitted = jax.jit(
            federated_rounds,
            donate_argnums=1,
            out_shardings=(self._placement.of_state(state), everywhere, everywhere),
        )
        lowered = jitted.lower(
            self._key,
            state,
            _Cohorts(cohorts.count, cohorts),
            Scouts(scouts.count, scouts),
            self._data[1],
        )
        self._compiled[self._variant(rounds)] = lowered.compile()
        self.compile_seconds += time.perf_counter() - start

    @contextlib.contextmanager
    def reading(self, directory: Path) -> Iterator[None]:
        """Opens the federation's store, or makes one of its data; reads ahead inside.

        Args:
          directory: where a data set that is not from a store is written, client by
            client, unless an earlier start of the run did so.
        """
        self._population = self._open(directory)
        ids: Any = self._ids_of_scouts
        scouts = Scouts(ids, self._population.gather(ids))
        self._scouts = self._placement.repeat(scouts)
        with Prefetcher(self._read) as self._reader:
            yield

    def _open(self, directory: Path) -> data.Population:
        federation = self._federation
        population = federation.population
        if population is None:
            if not (directory / HEADER).exists():
                shutil.rmtree(directory, ignore_errors=True)  # a torn one
                data.write_population(directory, federation.dataset, federation.parts)
            population = data.open_population(directory)
        return population

    def _cohorts(self, key: Key, completed: jax.Array, rounds: int) -> jax.Array:
        """Who takes part in the next rounds: int32 ``[rounds, K]``."""
        cohort, total = self._federation.algorithm.cohort, len(self._count)
        assert cohort is not None
        return jax.lax.map(
            lambda number: cohort(round_key(key, number), total),
            completed + jnp.arange(rounds),
        )

    def _read(self, step: tuple[int, int]) -> _Cohorts:
        """Draws, reads and places the cohorts of rounds; in the reader's thread."""
        completed, rounds = step
        ids: Any = np.asarray(self._draw(self._sampler_key, completed, rounds))
        flat = self._population.gather(ids.ravel())
        stacked = jax.tree.map(
            lambda leaf: leaf.reshape(*ids.shape, *leaf.shape[1:]), flat
        )
        return jax.device_put(_Cohorts(ids, stacked), self._by_client)

    def __call__(
        self, state: State, rounds: int = 1
    ) -> tuple[State, RoundInfo, Evaluations]:
        """Plays rounds; the old state is donated."""
        self.compile(state, rounds)
        completed = int(state.round)
        after = completed + rounds
        following = self._stop(after) - after
        cohorts = self._reader(
            (completed, rounds), (after, following) if following else None
        )
        return self._compiled[self._variant(rounds)](
            self._key, state, cohorts, self._scouts, self._data[1]
        )

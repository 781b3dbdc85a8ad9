"""Sources of the clients' data for the rounds of a program: memory, or files.

Cohorts of a run from files are read and put on the devices while the rounds before them
compute: who they are depends on the seed and the rounds' numbers alone.
"""

import contextlib
import shutil
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from fedsparsify_jax import data
from fedsparsify_jax.client_map import AXIS
from fedsparsify_jax.data.store.header import HEADER
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.programs.federation import Federation, round_key
from fedsparsify_jax.types import (
    ClientData,
    Cohort,
    Cohorts,
    FederatedAlgorithm,
    Key,
    PyTree,
    RoundInfo,
    State,
    nothing_more,
)

Step = TypeVar("Step", bound=Hashable)
Result = TypeVar("Result")


class RoundData(NamedTuple):
    """The clients' data of some rounds in a row, on the devices."""

    fixed: PyTree  # the same in every round
    cohorts: PyTree = ()  # [rounds, ...], unless rounds pick their clients from `fixed`


Read = Callable[[int, int, int], RoundData]
"""``(completed, rounds, following)`` to the data of the rounds after ``completed``.
``following`` is how many rounds the next call will ask for, 0 for none."""


class DataSource(Protocol):
    """The clients' data, as a `RoundProgram` needs them.

    Attributes:
      clients: all clients on the devices, none of them if they stay on disk.
    """

    clients: ClientData

    def shapes(self, rounds: int) -> RoundData:
        """Returns shapes, dtypes and places of the data of so many rounds."""

    def reading(self, directory: Path) -> contextlib.AbstractContextManager[Read]:
        """Opens the data for a run; what has to be written goes to ``directory``."""


class InMemory:
    """All clients' data on the devices, from the start."""

    def __init__(self, federation: Federation):
        self.clients = federation.placement.put_clients(federation.clients)

    def shapes(self, rounds: int) -> RoundData:
        return RoundData(self.clients)

    @contextlib.contextmanager
    def reading(self, directory: Path) -> Iterator[Read]:
        yield lambda completed, rounds, following: RoundData(self.clients)


def _cohorts(algorithm: FederatedAlgorithm) -> Cohorts:
    """Returns the parts of an algorithm that makes do with a cohort's data."""
    if algorithm.cohorts is None or algorithm.finish is not nothing_more:
        raise InputError(
            "this algorithm needs the data of all clients at a time: use "
            "--client-data memory"
        )
    return algorithm.cohorts


def run_round(
    algorithm: FederatedAlgorithm, key: Key, state: State, fixed: PyTree, cohort: PyTree
) -> tuple[State, RoundInfo]:
    """Runs a round on an entry of `RoundData`, inside a compiled program."""
    if cohort == ():
        return algorithm.step(key, state, fixed)
    return _cohorts(algorithm).run(key, state, cohort, fixed)


def _sampling_device() -> Any:
    """Returns where to draw cohorts: no accelerator, which is busy with a round."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX is configured without the CPU
        return jax.local_devices()[0]


class OnDisk:
    """Clients' data in a store of files: same rounds as in memory, same results.

    Args of the constructor:
      federation: whose data set is from a store, or is written into one by `reading`.
      key: of the run's rounds.

    Raises:
      InputError: for an algorithm that needs all clients' data at a time.
    """

    def __init__(self, federation: Federation, key: Key):
        cohorts = _cohorts(federation.algorithm)
        mesh = federation.placement.mesh
        sizes = jnp.asarray([len(part) for part in federation.parts], jnp.int32)
        self.clients = federation.clients
        self._federation = federation
        self._key = jax.device_put(key, _sampling_device())

        def draw(key: Key, completed: jax.Array, rounds: int) -> jax.Array:
            return jax.lax.map(
                lambda number: cohorts.sample(round_key(key, number), len(sizes)),
                completed + jnp.arange(rounds),
            )

        self._draw = jax.jit(draw, static_argnums=2)
        drawn = jax.eval_shape(lambda key: draw(key, jnp.int32(0), 1), key)
        self._cohort_size = drawn.shape[1]
        first = round_key(self._key, jnp.int32(0))
        self._setup_clients: Any = np.asarray(cohorts.setup_clients(first, sizes))
        even = self._cohort_size % mesh.size == 0
        spec = PartitionSpec(None, AXIS) if even else PartitionSpec()
        self._by_client = NamedSharding(mesh, spec)

    def shapes(self, rounds: int) -> RoundData:
        everywhere = self._federation.placement.everywhere
        return RoundData(
            self._shapes(len(self._setup_clients), sharding=everywhere),
            self._shapes(rounds, self._cohort_size, sharding=self._by_client),
        )

    def _shapes(self, *leading: int, sharding: NamedSharding) -> Cohort:
        def leaf(shape: tuple[int, ...], dtype: Any) -> Any:
            return jax.ShapeDtypeStruct((*leading, *shape), dtype, sharding=sharding)

        x, y = self._federation.dataset.train
        longest = max(map(len, self._federation.parts))
        inputs = leaf((longest, *x.shape[1:]), x.dtype)
        numbers = leaf((), jnp.int32)  # of ids and of sizes
        return Cohort(numbers, ClientData(inputs, leaf((longest,), y.dtype), numbers))

    @contextlib.contextmanager
    def reading(self, directory: Path) -> Iterator[Read]:
        """Opens the federation's store; without one, that in ``directory``.

        It is written there, client by client, unless an earlier start of the run did.
        """
        store = _open_store(self._federation, directory)
        setup = Cohort(self._setup_clients, store.gather(self._setup_clients))
        setup = self._federation.placement.repeat(setup)

        def load(step: tuple[int, int]) -> Cohort:
            ids: Any = np.asarray(self._draw(self._key, *step))
            flat = store.gather(ids.ravel())
            stacked = jax.tree.map(
                lambda leaf: leaf.reshape(*ids.shape, *leaf.shape[1:]), flat
            )
            return jax.device_put(Cohort(ids, stacked), self._by_client)

        with prefetching(load) as loaded:

            def read(completed: int, rounds: int, following: int) -> RoundData:
                then = (completed + rounds, following) if following else None
                return RoundData(setup, loaded((completed, rounds), then))

            yield read


def _open_store(federation: Federation, directory: Path) -> data.Population:
    if federation.population is not None:
        return federation.population
    if not (directory / HEADER).exists():
        shutil.rmtree(directory, ignore_errors=True)  # a torn one
        data.write_population(directory, federation.dataset, federation.parts)
    return data.open_population(directory)


@contextlib.contextmanager
def prefetching(
    make: Callable[[Step], Result],
) -> Iterator[Callable[[Step, Step | None], Result]]:
    """Calls ``make(step)`` before it is asked for, if the call before announced it.

    What ``make`` raises is raised by the call that asks for that step, as it is.
    Leaving the context waits for the ``make`` under way and begins no other.

    Args:
      make: called in one thread, one call at a time.

    Yields:
      ``(step, then) -> make(step)``; ``then`` is begun next, None for nothing.

    Example:
      >>> with prefetching(lambda t: t * t) as square:
      ...     square(1, 2), square(2, 3), square(3, None)
      (1, 4, 9)
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    ahead: dict[Step, Future[Result]] = {}

    def take(step: Step, then: Step | None) -> Result:
        future = ahead.pop(step, None) or thread.submit(make, step)
        for unwanted in ahead.values():
            unwanted.cancel()
        ahead.clear()
        result = future.result()
        if then is not None:
            ahead[then] = thread.submit(make, then)
        return result

    try:
        yield take
    finally:
        thread.shutdown(wait=True, cancel_futures=True)

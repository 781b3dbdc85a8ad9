"""A federation as its server has it: everything but the clients' data."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import data
from fedsparsify_jax.client_map import vmapped
from fedsparsify_jax.federate.rounds import halves_of
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.programs.devices import place
from fedsparsify_jax.runner.programs.federation import (
    Federation,
    algorithm_of,
    checked_model,
)
from fedsparsify_jax.runner.programs.sources import Read, RoundData
from fedsparsify_jax.training.losses import TASKS
from fedsparsify_jax.types import ClientData, ClientsState, Key, State, Variables


def _unseen(sizes: Sequence[int]) -> list[np.ndarray]:
    """Returns parts of these sizes, of examples that nobody but a node has seen."""
    ends = np.cumsum(sizes)
    return [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def refuse_early(config: TrainConfig, dataset: data.Dataset) -> None:
    """Refuses an algorithm whose clients cannot work apart, before any has joined.

    Raises:
      InputError: naming it.
    """
    model, _ = checked_model(config, dataset)
    halves_of(config, algorithm_of(config, model, dataset, vmapped()))


def assembled(
    config: TrainConfig,
    dataset: data.Dataset,
    parts: list[np.ndarray] | None,
    sizes: Sequence[int],
) -> Federation:
    """Returns the federation as its server has it: without clients' data.

    Args:
      config: resolved.
      dataset: of the server.
      parts: the clients' rows of it; None if they have examples of their own.
      sizes: how many each client has.

    Raises:
      InputError: for options that do not go together.
    """
    model, start = checked_model(config, dataset)
    seen = parts is not None
    parts, longest = parts or _unseen(sizes), max(sizes)
    batch_size = min(config.batch_size or 1, longest)
    algorithm = algorithm_of(config, model, dataset, vmapped(), batch_size=batch_size)
    x, y = (np.asarray(part) for part in dataset.train)
    nobody = ClientData(
        x=jnp.zeros((0, longest, *x.shape[1:]), x.dtype),
        y=jnp.zeros((0, longest), y.dtype),
        sizes=jnp.zeros(0, jnp.int32),
    )

    def init(key: Key, variables: Variables) -> State:
        # What clients keep is on their machines.
        return algorithm.init(key, variables)._replace(clients=ClientsState())

    placement = place(nobody, config.participation, jax.local_devices()[:1])
    return Federation(
        dataset=dataset,
        parts=parts,
        clients=nobody,
        model=model,
        task=TASKS[dataset.task],
        algorithm=algorithm._replace(init=init),
        placement=placement._replace(divided=False),
        start=start,
        seen=seen,
    )


def shapes_of(dataset: data.Dataset, longest: int) -> ClientData:
    """Returns the shapes of one client's data."""

    def of(array: Any) -> Any:
        array = np.asarray(array)
        return jax.ShapeDtypeStruct((longest, *array.shape[1:]), array.dtype)

    x, y = dataset.train
    sizes: Any = jax.ShapeDtypeStruct((), jnp.int32)
    return ClientData(x=of(x), y=of(y), sizes=sizes)


class Nowhere:
    """The clients' data as a server has them: not at all."""

    def __init__(self, nobody: ClientData):
        self.clients = nobody

    def shapes(self, rounds: int) -> RoundData:
        return RoundData(())

    @contextlib.contextmanager
    def reading(self, directory: Path) -> Iterator[Read]:
        yield lambda completed, rounds, following: RoundData(())

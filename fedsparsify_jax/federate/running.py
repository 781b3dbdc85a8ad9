"""The run of a federation, on whatever network its clients are."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from fedsparsify_jax import data
from fedsparsify_jax.federate.clients import Members
from fedsparsify_jax.federate.collecting import Collect
from fedsparsify_jax.federate.meter import NetworkMeter
from fedsparsify_jax.federate.rounds import NetworkRounds, fields_sent
from fedsparsify_jax.federate.server_side import (
    Nowhere,
    assembled,
    refuse_early,
    shapes_of,
)
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.process import compilation_cache
from fedsparsify_jax.runner.process.signals import Stop
from fedsparsify_jax.runner.programs.federation import (
    Federation,
    Keys,
    load,
    partition,
)
from fedsparsify_jax.runner.storage import resume
from fedsparsify_jax.runner.storage.lock import refuse_if_locked
from fedsparsify_jax.runner.storage.run_directory import RunDirectory
from fedsparsify_jax.runner.train import Work, carried_out
from fedsparsify_jax.types import ClientData


def prepared(
    config: TrainConfig, own_data: bool
) -> tuple[TrainConfig, data.Dataset, list[np.ndarray] | None]:
    """Returns all that is settled before the first client has joined.

    Args:
      config: resolved, with `out`.
      own_data: whether clients have data of their own.

    Returns:
      The options with the number of clients; the server's data set; and the clients'
      rows of it, None if they have data of their own.

    Raises:
      InputError: for data that cannot be loaded, and methods that cannot be federated.
    """
    assert config.out is not None
    refuse_if_locked(RunDirectory(config.out).path)
    compilation_cache.enable(config.compilation_cache)
    dataset = load(config)
    if not own_data:
        dataset = data.hold_out(dataset, config.validation_fraction, config.seed)
    refuse_early(config, dataset)
    parts = None
    if not own_data:
        parts = partition(config, dataset.train.y, dataset.owners)
        config = dataclasses.replace(config, num_clients=len(parts))
    return config, dataset, parts


class Assembly(NamedTuple):
    """A federation as its server has it, once the clients' sizes are known."""

    federation: Federation
    one: ClientData  # shapes of the data of a client
    reads: frozenset[str]  # fields of the context that clients are sent


def assembly_of(
    config: TrainConfig,
    dataset: data.Dataset,
    parts: list[np.ndarray] | None,
    examples: Mapping[int, int],
) -> Assembly:
    """Returns the federation of clients that have joined.

    Args:
      config: of `prepared`.
      dataset: of `prepared`.
      parts: of `prepared`.
      examples: client to how many it has, of all clients.

    Raises:
      InputError: for options that do not go together.
    """
    sizes = [examples[client] for client in range(len(examples))]
    federation = assembled(config, dataset, parts, sizes)
    one = shapes_of(dataset, max(sizes))
    return Assembly(federation=federation, one=one, reads=fields_sent(federation, one))


def run(
    config: TrainConfig,
    assembly: Assembly,
    clients: Members,
    collect: Collect,
    console: Console,
    stop: Stop,
) -> dict[str, Any]:
    """Runs the rounds, as an ordinary run.

    Args:
      config: of `prepared`.
      assembly: of the federation.
      clients: all of which have joined.
      collect: how uploads come to the server.
      console: where progress goes.
      stop: what may ask for an end.

    Returns:
      The content of ``summary.json``.
    """
    assert config.out is not None
    federation, keys = assembly.federation, Keys.from_seed(config.seed)
    program = NetworkRounds(
        federation, clients, assembly.one, assembly.reads, keys.rounds, collect
    )
    work = Work(
        config=config,
        federation=federation,
        keys=keys,
        directory=RunDirectory(config.out),
        fingerprints=resume.fingerprints(federation, keys),
        source=Nowhere(federation.clients),
        program=program,
        measure=NetworkMeter(clients),
    )
    return carried_out(work, console, stop)

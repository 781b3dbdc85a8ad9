"""Clients that the data name: who they are, their tests, what a run records of them."""

from typing import Any

import numpy as np

from fedsparsify_jax import data
from fedsparsify_jax.data.owners import named
from fedsparsify_jax.errors import counted
from fedsparsify_jax.runner.options.config import NATURAL, TrainConfig
from fedsparsify_jax.types import ClientRows


def natural_clients(config: TrainConfig, owners: data.Owners) -> data.Natural:
    """Returns the clients of the partition natural.

    Raises:
      InputError: if no client has enough examples.
    """
    return data.natural(
        owners,
        min_client_examples=config.min_client_examples or 1,
        max_clients=config.max_clients,
        seed=config.seed,
    )


def tests_of(
    config: TrainConfig, dataset: data.Dataset, parts: list[np.ndarray]
) -> ClientRows:
    """Returns the test examples of every client: its own, or of its classes.

    Args:
      config: resolved.
      dataset: that is divided.
      parts: its partition.
    """
    owners = dataset.owners
    if config.partition == NATURAL and owners is not None and owners.test is not None:
        kept = natural_clients(config, owners).kept
        return data.own_tests(owners.test, kept, seed=config.seed)
    return data.client_tests(dataset.train.y, parts, dataset.test.y, seed=config.seed)


def said(config: TrainConfig, dataset: data.Dataset) -> list[str]:
    """Returns sentences about the data: columns, splits, clients left out.

    Args:
      config: resolved.
      dataset: as it is divided.
    """
    lines = list(dataset.notes)
    if config.partition != NATURAL or dataset.owners is None:
        return lines
    owners = dataset.owners
    for why, who in natural_clients(config, owners).gone.items():
        number = counted(len(who), "client")
        lines.append(f"{number} {why} left out: {named(owners.names, who)}")
    return lines


def origin(config: TrainConfig, dataset: data.Dataset) -> dict[str, Any]:
    """Returns the same as JSON values, with all names; {} for plain data.

    Args:
      config: resolved.
      dataset: as it is divided.
    """
    found: dict[str, Any] = {}
    if dataset.notes:
        found["notes"] = list(dataset.notes)
    if dataset.labels is not None:
        found["labels"] = list(dataset.labels)
    if config.partition == NATURAL and dataset.owners is not None:
        names, made = dataset.owners.names, natural_clients(config, dataset.owners)
        found["names"] = [names[client] for client in made.kept]
        found["left_out"] = {
            why: [names[client] for client in who] for why, who in made.gone.items()
        }
    return found

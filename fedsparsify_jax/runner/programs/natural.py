"""Facts of the data that a run says and records: natural clients, labels, splits."""

from typing import Any

from fedsparsify_jax import data
from fedsparsify_jax.data.owners import named
from fedsparsify_jax.errors import counted
from fedsparsify_jax.runner.options.config import NATURAL, TrainConfig


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

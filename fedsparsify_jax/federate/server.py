"""The server of a federation: an ordinary run whose clients are on other machines."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fedsparsify_jax import data
from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.federate import running
from fedsparsify_jax.federate.clients import Clients
from fedsparsify_jax.federate.collecting import Collect, Uploads
from fedsparsify_jax.federate.encrypting import EncryptedMean, check_options
from fedsparsify_jax.federate.network import Network
from fedsparsify_jax.federate.plan import (
    envelope_of,
    plan_for,
)
from fedsparsify_jax.federate.settings import ServerSettings
from fedsparsify_jax.runner.messages import exchange_of
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import from_json
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.rules import flag
from fedsparsify_jax.runner.process.signals import Stop, catching
from fedsparsify_jax.runner.storage.run_directory import (
    check_name,
    default_path,
)


def train(
    network: Network,
    config: TrainConfig,
    settings: ServerSettings | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains a model with the clients of a network, and writes its run directory.

    The rounds are those of ``runner.train`` with the same options: same masks, and the
    same weights up to the rounding of sums.

    Args:
      network: of the nodes.
      config: the options; unresolved defaults are filled in.
      settings: of the server.
      console: where progress goes; standard output by default.

    Returns:
      The content of ``summary.json``.

    Raises:
      InputError: one line that says what is wrong and what to do.
      Stopped: after SIGTERM or SIGINT and saving.
    """
    config = checked(config)
    config = dataclasses.replace(config, out=config.out or default_path(config))
    assert config.out is not None
    check_name(config.out)
    console = console or Console(highlight=False)
    with catching() as stop:
        return _train(network, config, settings or ServerSettings(), console, stop)


_ELSEWHERE: Mapping[str, str] = {
    "faults": "in a real federation clients fail by themselves",
    "attack": "attacks are for simulations",
    "coordinator": "the server is one process",
    "init": "a start from a file is not sent to nodes yet",
    "lora_rank": "adapters are not sent to nodes yet",
}
"""Options that a federation has no use for, and the reason."""


def checked(config: TrainConfig) -> TrainConfig:
    """Returns the resolved options of a federation.

    Raises:
      InputError: for an option that goes with a simulation alone.
    """
    config = resolve(config)
    for field, reason in _ELSEWHERE.items():
        if getattr(config, field) is not None:
            raise InputError(f"{flag(field)} goes with fedsparsify train: {reason}")
    if config.sparse_training != "off" or config.client_evaluation == "on":
        raise InputError(
            "--sparse-training auto and --client-evaluation on go with fedsparsify "
            "train: the server has no clients' data"
        )
    if config.forgetting != "off" or config.loss == "contrastive":
        raise InputError(
            "--forgetting on and --loss contrastive go with fedsparsify train: the "
            "server has no clients' data"
        )
    if config.encrypted:
        check_options(config)
    if config.cohort_sampling != "fixed":
        raise InputError(
            f"--cohort-sampling {config.cohort_sampling} goes with fedsparsify train: "
            "the server of a federation draws cohorts of a fixed size, and is told no "
            "labels"
        )
    if config.show_partition:
        raise InputError("--show-partition goes with fedsparsify train")
    if config.dataset == "store":
        raise InputError("--dataset store goes with fedsparsify train: name a file")
    return dataclasses.replace(config, client_data="disk", client_evaluation="off")


def _train(
    network: Network,
    config: TrainConfig,
    settings: ServerSettings,
    console: Console,
    stop: Stop,
) -> dict[str, Any]:
    # Nodes join, and say how many examples they have.
    config, dataset, parts = running.prepared(config, settings.own_data)
    clients = _gathered(network, config, dataset, settings, console)
    if config.encrypted and clients.holder is None:
        raise InputError(
            "--encrypted needs a key holder: give one of the nodes a directory for keys"
        )
    assembly = running.assembly_of(config, dataset, parts, clients.sizes)
    clients.begin(settings.join_timeout)
    collect: Collect = Uploads(clients)
    if config.encrypted:
        collect = EncryptedMean(clients, config)
    return running.run(config, assembly, clients, collect, console, stop)


def _gathered(
    network: Network,
    config: TrainConfig,
    dataset: data.Dataset,
    settings: ServerSettings,
    console: Console,
) -> Clients:
    """Returns the clients of a federation, all of which have joined."""
    number = config.num_clients
    assert number is not None
    clients = Clients(
        network,
        envelope_of(plan_for(config, dataset)),
        number,
        exchange_of(config),
        settings.round_timeout,
        lambda line: console.print(f"note: {line}", soft_wrap=True),
    )
    console.print(f"waiting for {counted(number, 'client')}")
    clients.gather(settings.join_timeout)
    return clients


def serve(network: Network, settings: Mapping[str, Any]) -> None:
    """Runs the server of a federation whose settings are in a file.

    Args:
      network: of the nodes.
      settings: ``config`` is the path of a JSON file with ``options``, as a run's
        ``config.json`` has them, and ``server``, the fields of `ServerSettings`.

    Raises:
      InputError: if they cannot be read, and for all that `train` refuses.
    """
    path = Path(str(settings.get("config", "")))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        options, server = content["options"], content.get("server", {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read the federation's options {path}: {error}") from (
            error
        )
    train(network, from_json(options, str(path)), ServerSettings(**server))

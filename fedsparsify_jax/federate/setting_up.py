"""``fedsparsify federate init``: the files of a federation for real machines."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import server
from fedsparsify_jax.federate.flower import project
from fedsparsify_jax.federate.options import InitConfig, run_options, written
from fedsparsify_jax.federate.settings import ServerSettings
from fedsparsify_jax.runner.options import schema

CONFIG = "federation.json"
"""The server's options."""


def init(config: InitConfig, console: Console | None = None) -> Path:
    """Writes the project of a federation, all of it or nothing.

    Args:
      config: the options; ``num_clients`` is the number of nodes.
      console: where the next step is printed; standard output by default.

    Returns:
      The directory.

    Raises:
      InputError: for options that do not go together, or a directory with files.
    """
    schema.check(config)
    if len(config.project) != 1:
        raise InputError("name the directory of the project, one that is new or empty")
    number = config.num_clients  # a data set's usual number is none of machines
    if number is None:
        raise InputError("--num-clients is needed: how many nodes are there?")
    run = server.checked(run_options(config))
    directory = config.project[0].absolute()
    settings = ServerSettings(
        own_data=True,
        join_timeout=config.join_timeout,
        round_timeout=config.round_timeout,
    )
    # Flower starts the server elsewhere.
    out = (run.out or directory / "run").absolute()
    data_dir = run.data_dir and run.data_dir.absolute()
    run = dataclasses.replace(run, out=out, data_dir=data_dir)

    def fill(whole: Path) -> None:
        _write_json(whole / CONFIG, written(run, settings))
        for client in range(number):
            _write_json(whole / "nodes" / f"{client}.json", _node(config, client))
        if config.secure is not None:
            _secure(whole, config.secure, number)

    project.write(directory, {"config": str(directory / CONFIG)}, fill)
    console = console or Console(highlight=False)
    console.print(f"{config.project[0]}: README.md says how to go on", soft_wrap=True)
    return directory


def _node(config: InitConfig, client: int) -> dict[str, Any]:
    """Returns the settings of a node, its data to be filled in."""
    data = {"dataset": config.dataset, "data_dir": "PATH/OF/ITS/DATA"}
    node: dict[str, Any] = {"client": client, "data": data, "state": "state"}
    return node | ({"keys": "secret"} if config.encrypted and client == 0 else {})


def _secure(directory: Path, host: str, nodes: int) -> None:
    try:
        from fedsparsify_jax.federate.flower import security
    except ModuleNotFoundError as error:
        raise InputError(
            "--secure needs the package cryptography: install "
            "'fedsparsify_jax[flower]', which brings it"
        ) from error
    security.make_certificates(directory / "tls", [host])
    for client in range(nodes):
        security.make_node_key(directory / "keys", f"node-{client}")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

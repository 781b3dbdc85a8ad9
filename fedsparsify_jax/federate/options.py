"""Options of ``fedsparsify federate``: those of ``train``, and of the machines."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.settings import ServerSettings
from fedsparsify_jax.runner.options import schema
from fedsparsify_jax.runner.options.config import NATURAL, TrainConfig
from fedsparsify_jax.runner.options.listing import to_json
from fedsparsify_jax.runner.options.rules import above, at_least
from fedsparsify_jax.runner.options.schema import POSITIONAL, Heading, Shown


@dataclasses.dataclass(frozen=True)
class _Waiting:
    """Options of the server."""

    join_timeout: Annotated[float, Heading("Server"), above(0)] = 600.0
    """Seconds that all nodes are waited for at the start, to join and to compile."""
    round_timeout: Annotated[float, above(0)] = 3600.0
    """Seconds that the answers of a round are waited for; who is later has dropped
    out of it."""


@dataclasses.dataclass(frozen=True)
class LocalConfig(TrainConfig, _Waiting):
    """Train a federation of real processes on this machine, over Flower.

    A server and its nodes talk over loopback as they would over a network, with the
    results of fedsparsify train. Needs the extra flower.
    """

    nodes: Annotated[int, Heading("Nodes"), at_least(1, below=2**10)] = 3
    """Nodes, each a client; they divide the training examples as train does."""
    secure: bool = False
    """Encrypt connections (TLS), and let only nodes in whose keys the server knows."""


@dataclasses.dataclass(frozen=True)
class NVFlareConfig(TrainConfig):
    """Train a federation in the simulator of NVFlare, or write its job.

    A server and its sites talk over loopback, with the results of fedsparsify train.
    Needs the extra nvflare.
    """

    nodes: Annotated[int, Heading("Sites"), at_least(1, below=2**6)] = 3
    """Sites, each a client; they divide the training examples as train does."""
    site_data: Annotated[
        str | None, Shown(metavar="FILE", hint="default: a part of the server's data")
    ] = None
    """JSON file with dataset and data_dir of a site's own data, which every site has
    at this path; {site} in it is the site's name."""
    export: Annotated[
        Path | None, Shown(metavar="DIR", hint="default: run the simulator")
    ] = None
    """Only write the job, into this directory, for the sites site-1, site-2, ..."""


@dataclasses.dataclass(frozen=True)
class InitConfig(TrainConfig, _Waiting):
    """Write a Flower project of a federation whose nodes have data of their own.

    The README in it takes you from there to a server and its nodes.
    """

    project: Annotated[
        tuple[Path, ...],
        POSITIONAL,
        Shown("DIR", hint="a new directory"),
    ] = ()
    """Directory of the project."""
    secure: Annotated[
        str | None, Heading("Nodes"), Shown(metavar="HOST", hint="default: no TLS")
    ] = None
    """Also make certificates for a server of this name, and a key for every node."""


def run_options(config: Any) -> TrainConfig:
    """Returns the options of the run among those of a command."""
    fields = schema.read(TrainConfig)
    return TrainConfig(**{field: getattr(config, field) for field in fields})


def of_nodes(config: LocalConfig | NVFlareConfig) -> TrainConfig:
    """Returns the options of the run of a trial: each node is a client.

    Raises:
      InputError: for another number of clients.
    """
    run = run_options(config)
    if run.partition == NATURAL or run.client_column is not None:
        return run
    if run.num_clients not in (None, config.nodes):
        raise InputError(
            f"--num-clients is {run.num_clients} and --nodes {config.nodes}: every "
            "node is a client, leave --num-clients out"
        )
    return dataclasses.replace(run, num_clients=config.nodes)


def written(config: TrainConfig, settings: ServerSettings) -> dict[str, Any]:
    """Returns the content of ``federation.json``, which `server.serve` reads."""
    return {"options": to_json(config), "server": dataclasses.asdict(settings)}

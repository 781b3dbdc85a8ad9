"""The commands of Flower 1.42, with what a federation needs of their options.

SuperNodes and the command line speak HTTP to one port of the SuperLink. Every process
is told to send no telemetry, to look for no updates and to install nothing:
see `environment`.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedsparsify_jax.errors import InputError

LOCALHOST = "127.0.0.1"
QUICK = "fedsparsify_jax.federate.flower.quick_supernode"
"""The module that runs a SuperNode of this machine."""
CONNECTION = "federation"
"""The name of the SuperLink in Flower's configuration file."""
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Variables without which Flower's processes talk to machines of others."""
_LOOK = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
"""Seconds between two looks for a process to start; 1 is Flower's choice."""


class Tls(NamedTuple):
    """The files of an encrypted connection.

    Attributes:
      authority: the certificate that all machines trust.
      certificate: the server's, signed by the authority.
      key: the server's private key, which stays with it.
    """

    authority: Path
    certificate: Path
    key: Path


def program(name: str) -> str:
    """Returns the path of one of Flower's programs, beside this Python's.

    Raises:
      InputError: if flwr is not installed.
    """
    path = Path(sys.executable).parent / name
    if importlib.util.find_spec("flwr") is None or not path.exists():
        extra = 'pip install "fedsparsify_jax[flower]"'
        raise InputError(f"Flower is not installed for {sys.executable}: {extra}")
    return str(path)


def environment(home: Path) -> dict[str, str]:
    """Returns the environment of a process of Flower.

    Args:
      home: the directory that Flower uses in place of ``~/.flwr``.
    """
    # SuperLink and SuperNode start their helpers by name, from the same place.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    local = {"PATH": path, "FLWR_HOME": str(home), "NO_PROXY": LOCALHOST}
    return dict(os.environ) | QUIET | _LOOK | local


def superlink(
    port: int,
    *,
    host: str = LOCALHOST,
    tls: Tls | None = None,
    authenticate: bool = False,
) -> list[str]:
    """Returns the command of a SuperLink.

    Args:
      port: for SuperNodes, and for the command line.
      host: the address to listen at.
      tls: encrypts all connections; None sends plain text.
      authenticate: only nodes whose public keys are registered may connect.
    """
    command = [program("flower-superlink"), "--host", host, "--port", str(port)]
    command += ["--disable-runtime-dependency-installation"]
    if tls is None:
        return [*command, "--insecure"]
    command += ["--ssl-ca-certfile", str(tls.authority)]
    command += ["--ssl-certfile", str(tls.certificate), "--ssl-keyfile", str(tls.key)]
    return [*command, "--enable-supernode-auth"] if authenticate else command


def supernode(
    address: str,
    port: int,
    socket: Path,
    *,
    authority: Path | None = None,
    key: Path | None = None,
) -> list[str]:
    """Returns the command of a SuperNode.

    Args:
      address: the SuperLink's, ``host:port``.
      port: of this machine's loopback, for the SuperNode's own helpers.
      socket: where the node's worker answers.
      authority: the certificate to trust; None sends plain text.
      key: the node's private key, if the SuperLink asks for it.
    """
    program("flower-supernode")  # complains early
    command = [sys.executable, "-m", QUICK, "--superlink", address]
    command += ["--host", LOCALHOST, "--port", str(port)]
    command += ["--node-config", f"socket={json.dumps(str(socket))}"]
    if authority is None:
        return [*command, "--insecure"]
    command += ["--root-certificates", str(authority)]
    return [*command, "--auth-supernode-private-key", str(key)] if key else command


def worker(socket: Path, settings: Path, answer: str, parent: int) -> list[str]:
    """Returns the command of a node's worker, see `federate.worker`."""
    command = [sys.executable, "-m", "fedsparsify_jax.federate.worker"]
    command += ["--socket", str(socket), "--settings", str(settings)]
    return [*command, "--answer", answer, "--parent", str(parent)]


def flwr(*arguments: str) -> list[str]:
    """Returns a command of ``flwr`` for the SuperLink of `configuration`."""
    return [program("flwr"), *arguments]


def run(project: Path) -> list[str]:
    """Returns the command that submits a project and prints its log to its end."""
    return flwr("run", str(project), CONNECTION, "--stream")


def state(run: str) -> list[str]:
    """Returns the command that prints a run's state as JSON."""
    return flwr("ls", CONNECTION, "--run-id", run, "--format", "json")


def register(key: Path) -> list[str]:
    """Returns the command that admits the node with a public key."""
    return flwr("supernode", "register", str(key), CONNECTION)


def configuration(address: str, authority: Path | None = None) -> str:
    """Returns the text of ``$FLWR_HOME/config.toml`` for the command line."""
    trust: Sequence[str] = ["insecure = true"]
    if authority is not None:
        trust = [f"root-certificates = {json.dumps(str(authority))}"]
    lines = [
        "[superlink]",
        f'default = "{CONNECTION}"',
        f"[superlink.{CONNECTION}]",
        f'address = "{address}"',
        *trust,
    ]
    return "\n".join(lines) + "\n"

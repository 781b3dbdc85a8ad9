"""A federation of real processes on this machine alone.

One SuperLink, and for every node a SuperNode and a worker, all of which listen at
127.0.0.1 or at Unix sockets::

    with local.federation(directory, [{"data": 0}, {"data": 1}]) as federation:
        outcome = federation.run(project)

Logs are in ``directory/logs``; nothing is read from or written to ``~/.flwr``.
"""

import contextlib
import json
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import worker
from fedsparsify_jax.federate.flower import commands, ports
from fedsparsify_jax.federate.flower.commands import LOCALHOST, Tls
from fedsparsify_jax.federate.flower.local_node import Node, Place
from fedsparsify_jax.federate.processes import Process, guarded, words
from fedsparsify_jax.federate.waiting import POLL, Poll, pause, wait_for
from fedsparsify_jax.runner.process.signals import catching

_STARTED = re.compile(r"Successfully started run (\d+)")


class Outcome(NamedTuple):
    """The end of a run.

    Attributes:
      status: ``completed``, ``failed`` or ``stopped``, in Flower's words.
      error: one line; empty if all is well.
      log: the file with what the server printed.
    """

    status: str
    error: str
    log: Path


class Federation:
    """A SuperLink and its nodes, which run.

    Attributes:
      nodes: in the order of their settings.
      address: the SuperLink's.
    """

    def __init__(self, place: Place, superlink: Process, nodes: Sequence[Node]):
        self.nodes, self.address = nodes, place.address
        self._place, self._superlink = place, superlink

    def run(self, project: Path, poll: Poll = lambda: None) -> Outcome:
        """Runs a project to its end.

        Args:
          project: see `project.write`.
          poll: called every 0.2 s. What it raises ends the wait; the run itself ends
            with the federation.

        Raises:
          InputError: if Flower does not take the project, or the SuperLink ends.
        """
        stream = self._finished("run", commands.run(project), poll)
        if (match := _STARTED.search(stream.output())) is None:
            raise stream.failure()
        while not (row := self._row(match[1], poll))["status"].startswith("finished"):
            pause(1.0, poll)  # the log's end came first, or its connection was lost
        status = row["status"].partition(":")[2]
        details = words(row.get("status-details", ""))
        error = "" if status == "completed" else str(InputError(details or status))
        return Outcome(status=status, error=error, log=stream.log)

    def register(self, key: Path, poll: Poll = lambda: None) -> None:
        """Admits the node with a public key."""
        process = self._finished("register", commands.register(key), poll)
        if process.status:
            raise process.failure()

    def _row(self, run: str, poll: Poll) -> dict[str, Any]:
        """Returns Flower's record of a run."""
        process = self._finished("state", commands.state(run), poll)
        try:
            row: dict[str, Any] = json.loads(process.output())["runs"][0]
        except (ValueError, LookupError) as error:
            raise process.failure() from error
        return row

    def _finished(self, name: str, command: list[str], poll: Poll) -> Process:
        """Runs a command of ``flwr`` to its end."""
        environment = self._place.environment("command-line")
        process = self._place.processes.start(name, command, environment)
        try:
            while process.running():
                if not self._superlink.running():
                    raise self._superlink.failure()
                pause(POLL, poll)
        except BaseException:
            process.kill()
            raise
        return process


@contextlib.contextmanager
def federation(
    directory: Path,
    settings: Sequence[Mapping[str, Any]],
    *,
    answer: str = worker.ANSWER,
    tls: Tls | None = None,
    keys: Sequence[Path] = (),
    port: int = 0,
    poll: Poll = lambda: None,
) -> Iterator[Federation]:
    """Starts a federation, and ends all of its processes in every case.

    Args:
      directory: for logs and Flower's files.
      settings: of the nodes' workers, one for each node; written as JSON.
      answer: ``module:function`` that builds a worker's `Answer` from its settings.
      tls: encrypts the connections, see `security`.
      keys: the nodes' private keys, with the public ones beside them; the SuperLink
        then accepts no other node.
      port: of the SuperLink; 0 chooses a free one.
      poll: called every 0.2 s while processes start.

    Yields:
      The federation, once all nodes are connected.

    Raises:
      InputError: if flwr is missing, the port is taken, or a process does not start.
      Stopped: after SIGTERM or SIGINT, a `KeyboardInterrupt`.
    """
    commands.program("flower-superlink")
    ports.refuse_taken(port)
    free, *others = ports.free(1 + len(settings))
    sockets = Path(tempfile.mkdtemp(prefix="fedsparsify-"))  # their paths are short
    with catching(at_once=True), guarded(directory / "logs", sockets) as processes:
        place = Place(
            directory=directory,
            sockets=sockets,
            processes=processes,
            address=f"{LOCALHOST}:{port or free}",
            tls=tls,
            answer=answer,
        )
        superlink = _superlink(place, authenticate=bool(keys), poll=poll)
        private: Sequence[Path | None] = keys or [None] * len(others)
        pairs = zip(others, private, strict=True)
        nodes = [Node(place, n, *pair) for n, pair in enumerate(pairs, 1)]
        running = Federation(place, superlink, nodes)
        for key in keys:
            running.register(public(key), poll)
        for node, content in zip(nodes, settings, strict=True):
            _write_settings(node.settings, content)
            node.start()
        for node in nodes:
            node.wait(poll)
        yield running


def public(key: Path) -> Path:
    """Returns the file of the public key that belongs to a private one."""
    return key.with_name(f"{key.name}.pub")


def _superlink(place: Place, *, authenticate: bool, poll: Poll) -> Process:
    """Starts a SuperLink, and returns once it listens."""
    authority = place.tls.authority if place.tls else None
    text = commands.configuration(place.address, authority)
    home = Path(place.environment("command-line")["FLWR_HOME"])
    (home / "config.toml").write_text(text, encoding="utf-8")
    port = int(place.address.rpartition(":")[2])
    command = commands.superlink(port, tls=place.tls, authenticate=authenticate)
    environment = place.environment("superlink")
    process = place.processes.start("superlink", command, environment)

    def listens() -> bool:
        with socket.socket() as one:
            return one.connect_ex((LOCALHOST, port)) == 0

    wait_for(listens, [process], poll)
    return process


def _write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(settings)), encoding="utf-8")

"""A federation of real processes on this machine alone.

One SuperLink, and for every node a SuperNode and a worker, all of which listen at
127.0.0.1 or at Unix sockets::

    with local.federation(directory, [{"data": 0}, {"data": 1}]) as federation:
        outcome = federation.run(project)

Logs are in ``directory/logs``; nothing is read from or written to ``~/.flwr``.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import worker
from fedsparsify_jax.federate.flower import commands
from fedsparsify_jax.federate.flower.commands import LOCALHOST, Tls
from fedsparsify_jax.federate.flower.processes import (
    Process,
    Processes,
    guarded,
    reason,
    words,
)
from fedsparsify_jax.runner.process.signals import catching

POLL = 0.2
"""Seconds between two calls of a caller's ``poll``."""
_START = 120.0
"""Seconds that a process may take to start, which on a busy machine it does."""
_STARTED = re.compile(r"Successfully started run (\d+)")
_NODE = re.compile(r"SuperNode ID: (\d+)")

Poll = Callable[[], None]


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


class _Place(NamedTuple):
    """The surroundings of the processes of a federation."""

    directory: Path
    sockets: Path
    processes: Processes
    address: str
    tls: Tls | None
    answer: str

    def environment(self, name: str) -> dict[str, str]:
        """Returns the environment of a process, with a home of its own."""
        home = self.directory / "home" / name
        home.mkdir(parents=True, exist_ok=True)
        return commands.environment(home)


class Node:
    """A SuperNode and its worker, which can be killed and started again."""

    def __init__(self, place: _Place, number: int, port: int, key: Path | None):
        self._place, self._number = place, number
        self._port, self._key = port, key
        self._socket = place.sockets / f"{number}.sock"
        self._processes: list[Process] = []

    @property
    def settings(self) -> Path:
        """Returns the file of the worker's settings."""
        return self._place.directory / "settings" / f"node-{self._number}.json"

    def start(self) -> None:
        """Starts both processes; `wait` returns once they are ready."""
        place, name = self._place, f"node-{self._number}"
        self._socket.unlink(missing_ok=True)  # of a worker that was killed
        work = commands.worker(self._socket, self.settings, place.answer, os.getpid())
        authority = place.tls.authority if place.tls else None
        node = commands.supernode(
            place.address, self._port, self._socket, authority=authority, key=self._key
        )
        environment = place.environment(name)
        start = place.processes.start
        self._processes = [
            start(f"{name}-worker", work, environment),
            start(name, node, environment),
        ]

    def wait(self, poll: Poll = lambda: None) -> int:
        """Waits until the worker answers and the SuperNode is connected.

        Returns:
          The node's number in Flower, which is new after every start.

        Raises:
          InputError: if one of them ends, or is not ready in time.
        """
        _wait(self._socket.is_socket, self._processes, poll)
        return _wait(self._connected, self._processes, poll)

    def kill(self) -> None:
        """Ends both processes at once, as a power cut does."""
        for process in self._processes:
            process.kill()

    def _connected(self) -> int | None:
        match = _NODE.search(self._processes[1].output())
        return int(match[1]) if match else None


class Federation:
    """A SuperLink and its nodes, which run.

    Attributes:
      nodes: in the order of their settings.
      address: the SuperLink's.
    """

    def __init__(self, place: _Place, superlink: Process, nodes: Sequence[Node]):
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
            _pause(1.0, poll)  # the log's end came first, or its connection was lost
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
                _pause(POLL, poll)
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
    refuse_taken(port)
    free, *ports = free_ports(1 + len(settings))
    sockets = Path(tempfile.mkdtemp(prefix="fedsparsify-"))  # their paths are short
    try:
        with catching(at_once=True), guarded(directory / "logs") as processes:
            place = _Place(
                directory=directory,
                sockets=sockets,
                processes=processes,
                address=f"{LOCALHOST}:{port or free}",
                tls=tls,
                answer=answer,
            )
            superlink = _superlink(place, authenticate=bool(keys), poll=poll)
            private: Sequence[Path | None] = keys or [None] * len(ports)
            pairs = zip(ports, private, strict=True)
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
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def public(key: Path) -> Path:
    """Returns the file of the public key that belongs to a private one."""
    return key.with_name(f"{key.name}.pub")


def free_ports(number: int) -> list[int]:
    """Returns ports of 127.0.0.1 that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind((LOCALHOST, 0))
        return [one.getsockname()[1] for one in sockets]


def refuse_taken(port: int) -> None:
    """Raises `InputError` for a port of 127.0.0.1 that is taken."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((LOCALHOST, port))
        except OSError as error:
            text = f"port {port} of {LOCALHOST} is taken"
            raise InputError(f"{text}: choose another, or 0 for a free one") from error


def _superlink(place: _Place, *, authenticate: bool, poll: Poll) -> Process:
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

    _wait(listens, [process], poll)
    return process


def _write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(settings)), encoding="utf-8")


def _wait(ready: Callable[[], Any], processes: Sequence[Process], poll: Poll) -> Any:
    """Waits until something is ready, and returns it."""
    deadline = time.monotonic() + _START
    while not (value := ready()):
        for process in processes:
            if not process.running():
                raise process.failure()
            if time.monotonic() > deadline:
                text = f"{process.name} is not ready after {_START:g} s"
                raise InputError(f"{text}: {reason(process.output())}")
        _pause(POLL, poll)
    return value


def _pause(seconds: float, poll: Poll) -> None:
    """Waits, and calls ``poll`` every 0.2 s."""
    deadline = time.monotonic() + seconds
    poll()
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, POLL))
        poll()

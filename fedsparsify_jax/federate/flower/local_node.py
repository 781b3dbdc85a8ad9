"""A node of a federation on this machine: a SuperNode and its worker."""

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.flower import commands
from fedsparsify_jax.federate.flower.commands import Tls
from fedsparsify_jax.federate.processes import Process, Processes
from fedsparsify_jax.federate.waiting import START, Poll, pause, wait_for

_NODE = re.compile(r"SuperNode ID: (\d+)")
_REFUSED = "Failed to activate SuperNode"
_AGAIN = 5.0
"""Seconds before a node that was refused is started again."""


class Place(NamedTuple):
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

    def __init__(self, place: Place, number: int, port: int, key: Path | None):
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
        place, name = self._place, f"node-{self._number}-worker"
        self._socket.unlink(missing_ok=True)  # of a worker that was killed
        command = commands.worker(
            self._socket, self.settings, place.answer, os.getpid()
        )
        work = place.processes.start(name, command, place.environment(name))
        self._processes = [work, self._supernode()]

    def wait(self, poll: Poll = lambda: None) -> int:
        """Waits until the worker answers and the SuperNode is connected.

        Returns:
          The node's number in Flower: that of its key, or else a new one after every
          start.

        Raises:
          InputError: if one of them ends, or is not ready in time.
        """
        wait_for(self._socket.is_socket, self._processes[:1], poll)
        deadline = time.monotonic() + START
        while (number := self._joined(poll)) is None:
            if time.monotonic() > deadline:
                raise self._processes[1].failure()
            pause(_AGAIN, poll)
            self._processes[1] = self._supernode()
        return number

    def kill(self) -> None:
        """Ends both processes at once, as a power cut does.

        Flower lists the node for up to 60 s more. One with a key is refused for as
        long; `wait` tries again until then.
        """
        for process in self._processes:
            process.kill()

    def _supernode(self) -> Process:
        place, name = self._place, f"node-{self._number}"
        authority = place.tls.authority if place.tls else None
        command = commands.supernode(
            place.address, self._port, self._socket, authority=authority, key=self._key
        )
        return place.processes.start(name, command, place.environment(name))

    def _joined(self, poll: Poll) -> int | None:
        """Returns the node's number, None if the SuperLink refuses it.

        One with a key that was killed counts as connected until heartbeats are missed.
        """
        try:
            number: int = wait_for(self._connected, self._processes, poll)
        except InputError:
            if _REFUSED in self._processes[1].output():
                return None
            raise
        return number

    def _connected(self) -> int | None:
        match = _NODE.search(self._processes[1].output())
        return int(match[1]) if match else None

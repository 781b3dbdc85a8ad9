"""A node's worker: a process that lives as long as the node and answers messages.

Flower starts a new process for every message. Importing JAX and compiling there would
cost seconds each time, so that process only forwards bytes to this one, over a Unix
socket (see `forwarding`)::

    python -m fedsparsify_jax.federate.worker --socket DIR/node.sock --settings FILE

It answers one message at a time, and ends on SIGTERM or SIGINT, or when the process
that started it is gone.
"""

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import stat
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import forwarding, references
from fedsparsify_jax.federate.network import Answer, Reply, replied

ANSWER = "fedsparsify_jax.federate.node:answer_of"
"""The function that builds a node's `Answer` from its settings."""
_SILENCE = 60.0
"""Seconds that a client may pause within a message, before it is given up."""
_LOOK = 0.5
"""Seconds between two looks for the parent process."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker; returns the exit status if it cannot start."""
    options = _parser().parse_args(arguments)
    path = options.socket.absolute()
    end = _End(options.parent)
    try:
        answer = references.load(options.answer)(read_settings(options.settings))
        listener = listening(path)
    except InputError as error:
        _say(str(error))
        return 2
    end.remove = path
    _say(f"answering at {path}")
    with listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                _handle(connection, answer, options.limit)


def read_settings(path: Path) -> dict[str, Any]:
    """Reads the settings of a node, an object of JSON."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} has no settings: an object of JSON is needed")
    return settings


def listening(path: Path) -> socket.socket:
    """Opens a Unix socket in a directory that belongs to this user alone.

    Args:
      path: the socket's; its directory is made if there is none. What a worker that was
        killed left there is replaced.

    Raises:
      InputError: for a path that is too long or not a socket's, a directory that others
        may enter, and a socket at which another worker listens.
    """
    if len(os.fsencode(path)) > forwarding.LONGEST_PATH:
        limit = forwarding.LONGEST_PATH
        raise InputError(f"the socket's path {path} is longer than {limit} bytes")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.parent.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise InputError(
            f"others may enter {path.parent}: give the socket a directory of mode 700"
        )
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    path.chmod(0o600)
    listener.listen()
    return listener


def _remove_stale(path: Path) -> None:
    """Removes a socket at which nobody listens."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InputError(f"{path} exists and is not a socket: choose another name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise InputError(f"another worker answers at {path}: stop it first")


def _handle(connection: socket.socket, answer: Answer, limit: int) -> None:
    """Answers one message; a client that goes away costs a line of the log."""
    connection.settimeout(_SILENCE)
    try:
        reply = _reply(connection, answer, limit)
        forwarding.send_answer(connection, reply.content, reply.error)
    except OSError as error:
        _say(f"a client went away: {error}")


def _reply(connection: socket.socket, answer: Answer, limit: int) -> Reply:
    try:
        message = forwarding.receive_message(connection, limit)
    except ValueError as error:
        return Reply(error=str(error))
    try:
        reply = replied(answer, message)
        if len(reply.content) <= limit:
            return reply
        return Reply(error=f"an answer of {len(reply.content):,} bytes is too long")
    except Exception as error:  # the next message may be well, so the worker goes on
        traceback.print_exc()
        return Reply(error=str(InputError(f"{type(error).__name__}: {error}")))


class _End:
    """The end of this process: at a signal, or with its parent.

    A thread brings it, because signal handlers of Python wait for compiled functions.

    Attributes:
      remove: the socket to remove, once it is this worker's.
    """

    def __init__(self, parent: int):
        self.remove: Path | None = None
        self._parent = parent
        self._signals, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not select.select([self._signals], [], [], _LOOK)[0]:
            if os.getppid() != self._parent:
                self._leave(0, "the process that started this worker is gone")
        self._leave(128 + os.read(self._signals, 1)[0], "stopped")

    def _leave(self, status: int, reason: str) -> None:
        if self.remove is not None:
            self.remove.unlink(missing_ok=True)
        _say(reason)
        os._exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fedsparsify_jax.federate.worker",
        description="Answers the messages of a federation, for one node.",
    )
    parser.add_argument(
        "--socket",
        type=Path,
        required=True,
        help="path of the Unix socket, in a directory of this user alone",
    )
    parser.add_argument(
        "--settings", type=Path, required=True, help="a JSON file with the settings"
    )
    parser.add_argument(
        "--answer", default=ANSWER, help="module:function that builds the answer"
    )
    parser.add_argument(
        "--parent",
        type=int,
        default=os.getppid(),
        help="the process with which this one ends (default: the one that starts it)",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=forwarding.LIMIT,
        help="bytes of the longest message",
    )
    return parser


def _say(line: str) -> None:
    """Writes a line to standard error, in one piece."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"worker: {line}\n".encode())


if __name__ == "__main__":
    sys.exit(main())

"""One message over a Unix socket to a node's worker, and its answer back.

A request is its length and its bytes; an answer is a byte that says whether it is an
error, a length and bytes. This file needs Python alone: projects for Flower contain a
copy of it, so that a process that only forwards starts fast.
"""

import contextlib
import os
import socket
import struct
import time

LIMIT = 1 << 31
"""Bytes of the longest message or answer."""
LONGEST_PATH = 100
"""Bytes of the longest path of a socket; Linux allows 107, macOS 103."""
_LENGTH = struct.Struct(">Q")
_OK, _ERROR = b"\x00", b"\x01"
_CHUNK = 1 << 20


class UnansweredError(OSError):
    """No whole answer came; its text is one line."""


def ask(path: str, message: bytes, wait: float = 30.0) -> tuple[bytes, str]:
    """Sends a message to the worker at a socket, and waits for its answer.

    Args:
      path: the worker's socket.
      message: any bytes.
      wait: seconds in which the worker may still be starting.

    Returns:
      The answer's content and its error, one of which is empty.

    Raises:
      UnansweredError: if no worker listens, or it went away before it answered.
    """
    with _connected(path, time.monotonic() + wait) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(_LENGTH.pack(len(message)))
            connection.sendall(message)
        # A worker that refuses the length answers and reads no further.
        try:
            failed = receive(connection, 1) == _ERROR
            content = receive_message(connection, LIMIT)
        except OSError as error:
            text = f"the worker at {path} went away before it answered ({error})"
            raise UnansweredError(text) from error
    return (b"", content.decode("utf-8", "replace")) if failed else (content, "")


def send_answer(connection: socket.socket, content: bytes, error: str) -> None:
    """Sends an answer's content, or its error if there is one."""
    body = error.encode() if error else content
    connection.sendall((_ERROR if error else _OK) + _LENGTH.pack(len(body)))
    connection.sendall(body)


def receive_message(connection: socket.socket, limit: int) -> bytes:
    """Receives a length and as many bytes.

    Raises:
      ValueError: for a length above the limit, before a byte of the message is read.
      ConnectionError: if the other side goes away before the end.
    """
    (length,) = _LENGTH.unpack(receive(connection, _LENGTH.size))
    if length > limit:
        raise ValueError(f"a message of {length:,} bytes; the limit is {limit:,}")
    return receive(connection, length)


def receive(connection: socket.socket, length: int) -> bytes:
    """Receives exactly so many bytes."""
    parts, missing = [], length
    while missing:
        part = connection.recv(min(missing, _CHUNK))
        if not part:
            raise ConnectionError(f"{missing:,} of {length:,} bytes are missing")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _connected(path: str, deadline: float) -> socket.socket:
    """Returns a connection to a worker, once it listens."""
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(os.fspath(path))
            return connection
        except OSError as error:
            connection.close()
            absent = isinstance(error, FileNotFoundError | ConnectionRefusedError)
            if not absent or time.monotonic() > deadline:
                text = f"no worker listens at {path} ({error}): start it first"
                raise UnansweredError(text) from error
        time.sleep(0.1)

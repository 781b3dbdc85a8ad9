"""Ports of this machine's loopback."""

import contextlib
import socket

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.flower.commands import LOCALHOST


def free(number: int) -> list[int]:
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

"""Waits for processes, with a caller that shows progress."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.processes import Process, reason

POLL = 0.2
"""Seconds between two calls of a caller's ``poll``."""
START = 120.0
"""Seconds that a process may take to start, which on a busy machine it does."""

Poll = Callable[[], None]


def wait_for(ready: Callable[[], Any], processes: Sequence[Process], poll: Poll) -> Any:
    """Waits until something is ready, and returns it."""
    deadline = time.monotonic() + START
    while not (value := ready()):
        for process in processes:
            if not process.running():
                raise process.failure()
            if time.monotonic() > deadline:
                text = f"{process.name} is not ready after {START:g} s"
                raise InputError(f"{text}: {reason(process.output())}")
        pause(POLL, poll)
    return value


def pause(seconds: float, poll: Poll) -> None:
    """Waits, and calls ``poll`` every 0.2 s."""
    deadline = time.monotonic() + seconds
    poll()
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, POLL))
        poll()

"""``flower-supernode`` that looks for messages five times a second.

Flower 1.42 waits for 3 seconds whenever it finds none, and has no option for it. A
round of a simulated network then takes 3 seconds at least, whatever its clients do.
This program is for federations on one machine, whose server such looks do not burden.
"""

import time
from typing import Any

from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode

LONGEST = 0.2
"""Seconds between two looks."""


class Clock:
    """The module ``time`` with short sleeps."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, LONGEST))


def main() -> None:
    """Runs a SuperNode until it is stopped."""
    start_client_internal.time = Clock()
    flower_supernode()


if __name__ == "__main__":
    main()

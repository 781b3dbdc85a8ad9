"""Memory of a client between rounds: its optimizer, a residual, a method's own.

The state that a round leaves counts only if the server merged its upload, which the
client learns with the next model. Until then both are kept, and as many more as the
server's checkpoints lie back, so that a server that goes on from one of them finds
every client as it was.
"""

from pathlib import Path

import jax

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import leaves
from fedsparsify_jax.types import ClientsState


class Kept:
    """States of a client, by the round that left them.

    Args of the constructor:
      directory: where it is written, so that a node may be started anew; None to keep
        it in memory alone.
    """

    def __init__(self, directory: Path | None = None):
        self._directory = directory
        self._states: dict[int, ClientsState] = {}
        self.first = ClientsState()

    def begin(self, first: ClientsState) -> None:
        """Takes up what was kept before, if there is anything.

        Args:
          first: state before the first round.
        """
        self.first = first
        self._states = {0: first}
        if self._directory is None or not jax.tree.leaves(first):
            return
        for path in self._directory.glob("after-*"):
            number = path.name.removeprefix("after-")
            if number.isdecimal():
                message = path.read_bytes()
                self._states[int(number)] = leaves.read(message, first, str(path))

    def after(self, merged: int, oldest: int) -> ClientsState:
        """Returns the state that the next round starts from.

        Args:
          merged: the latest round whose upload was merged, 0 for none.
          oldest: the same as of the server's oldest checkpoint: nothing before it will
            be asked for again.

        Raises:
          InputError: if it is lost.
        """
        for number in [n for n in self._states if n < oldest]:
            self._forget(number)
        if not jax.tree.leaves(self.first):
            return self.first
        if merged not in self._states:
            raise InputError(
                f"this node has lost what it kept after round {merged}: it cannot go "
                "on as the same client"
            )
        return self._states[merged]

    def put(self, number: int, state: ClientsState) -> None:
        """Keeps the state that a round left."""
        if not jax.tree.leaves(state):
            return
        self._states[number] = state
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
            partial = self._directory / ".partial"
            partial.write_bytes(leaves.write(state))
            partial.replace(self._directory / f"after-{number}")

    def _forget(self, number: int) -> None:
        if number == 0 and self._directory is None:
            return
        del self._states[number]
        if self._directory is not None:
            (self._directory / f"after-{number}").unlink(missing_ok=True)

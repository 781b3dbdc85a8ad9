"""The bytes of a federation's messages, and what a checkpoint has of its clients."""

import jax

from fedsparsify_jax.federate.clients import Members
from fedsparsify_jax.runner.display.summary import Record
from fedsparsify_jax.types import Masks, RoundInfo


class NetworkMeter:
    """Meter of messages that are really sent, in the place of `messages.Meter`.

    Args of the constructor:
      clients: of the federation.
    """

    def __init__(self, clients: Members):
        self._clients = clients

    def __call__(self, info: RoundInfo) -> Record:
        """Returns the bytes of the round's messages, envelopes included."""
        up, down = self._clients.traffic.pop(int(info.round))
        return {"message_bytes_up": up, "message_bytes_down": down}

    def saved(self) -> bytes:
        """Returns what the server knows of its clients, for a checkpoint."""
        return self._clients.known.saved()

    def restore(self, saved: bytes | None, like: Masks) -> None:
        """Takes up what the server knew of its clients at a checkpoint."""
        if saved is not None:
            self._clients.known.restore(saved, jax.device_get(like))

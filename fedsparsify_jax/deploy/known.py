"""The server's knowledge of its clients: masks that they have, uploads that counted."""

import jax
import numpy as np

from fedsparsify_jax.deploy import exchange, wire
from fedsparsify_jax.types import Masks


class Known:
    """Masks and merged rounds by client; a client that is not in it knows nothing."""

    def __init__(self) -> None:
        self._masks: dict[int, Masks] = {}
        self._merged: dict[int, int] = {}
        self._saved: dict[int, int] = {}  # merged, as of the latest save
        self._oldest: dict[int, int] = {}  # the same of the save before it

    def of(self, client: int) -> Masks | None:
        """Returns the masks that a client was sent last."""
        return self._masks.get(client)

    def put(self, client: int, masks: Masks) -> None:
        """Notes that a client has these masks."""
        self._masks[client] = masks

    def counted(self, client: int, number: int) -> None:
        """Notes that the upload of a round was merged."""
        self._merged[client] = number

    def merged(self, client: int) -> tuple[int, int]:
        """Returns the latest merged round of a client, now and as of the save before.

        Nobody goes back behind that save: it was whole when the latest was made.
        """
        return self._merged.get(client, 0), self._oldest.get(client, 0)

    def saved(self) -> bytes:
        """Returns all of it as bytes, for `restore`."""
        distinct = {id(masks): masks for masks in self._masks.values()}
        numbers = {key: str(number) for number, key in enumerate(distinct)}
        packed = {
            numbers[key]: jax.tree.map(np.packbits, masks)
            for key, masks in distinct.items()
        }
        clients = {str(c): numbers[id(masks)] for c, masks in self._masks.items()}
        self._oldest, self._saved = self._saved, dict(self._merged)
        merged = {str(client): t for client, t in self._merged.items()}
        return wire.encode(packed, metadata={"clients": clients, "merged": merged})

    def restore(self, saved: bytes, like: Masks) -> None:
        """Takes up what was saved.

        Args:
          saved: of `saved`.
          like: masks of the model.
        """
        message = wire.decode(saved, limit=2**40)
        masks = {
            number: exchange.unpacked(packed, like)
            for number, packed in message.variables.items()
        }
        clients = message.metadata["clients"].items()
        self._masks = {int(client): masks[number] for client, number in clients}
        self._merged = {
            int(client): t for client, t in message.metadata.get("merged", {}).items()
        }
        self._saved, self._oldest = dict(self._merged), {}

"""A node's part in encrypted sums: it encrypts, and one node of all decrypts."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedsparsify_jax.deploy import encrypted, exchange, wire
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import kinds, leaves
from fedsparsify_jax.federate.envelope import Envelope
from fedsparsify_jax.types import Masks, Variables

SUM, MASKS, NUMBERS = "sum", "masks", "numbers"
"""Parts: a ciphertext, packed masks, decrypted numbers."""


class Sealed(NamedTuple):
    """A round that waits for the elected masks."""

    round: int
    start: Variables  # the global model
    upload: Variables  # under the client's own masks


class Cipher:
    """The keys of a node, and what it encrypts and decrypts.

    Args of the constructor:
      keys: of the key holder; None on all other nodes.
    """

    def __init__(self, keys: encrypted.Keys | None = None):
        self._keys = keys
        self.public = b"" if keys is None else keys.public
        self._waiting: Sealed | None = None

    def trained(
        self,
        letter: Envelope,
        start: Variables,
        kept: Masks,
        upload: Variables,
        masks: Masks,
    ) -> dict[str, bytes]:
        """Returns the parts that a node answers a round with.

        Args:
          letter: the round, with the facts ``share``, ``clients`` and ``vote``.
          start: the global model.
          kept: its masks.
          upload: the client's model.
          masks: the client's.
        """
        t = letter.fact("round", int)
        if not letter.fact("vote", bool):
            return {SUM: self._encrypted(letter, t, start, kept, upload)}
        own = jax.tree.map(lambda leaf, mask: np.where(mask, leaf, 0), upload, masks)
        self._waiting = Sealed(round=t, start=start, upload=own)
        return {MASKS: wire.encode(jax.tree.map(np.packbits, masks))}

    def elected(self, letter: Envelope, number: int) -> Envelope:
        """Returns the answer to the elected masks: the weights that they keep.

        Raises:
          InputError: if there is no such round to finish.
        """
        t, waiting = letter.fact("round", int), self._waiting
        if waiting is None or waiting.round != t:
            raise InputError(f"this node has trained nothing for a vote in round {t}")
        masks = masks_in(letter.parts, waiting.upload)
        upload = jax.tree.map(
            lambda leaf, mask: np.where(mask, leaf, 0), waiting.upload, masks
        )
        self._waiting = None
        content = self._encrypted(letter, t, waiting.start, masks, upload)
        facts = {"client": number, "round": t}
        return Envelope(kinds.ENCRYPTED, facts, {SUM: content})

    def decrypted(self, letter: Envelope, number: int) -> Envelope:
        """Returns the mean in a sum, if this node has the secret key.

        Raises:
          InputError: if it has not, or cannot decrypt the sum.
        """
        if self._keys is None:
            raise InputError("this node has no secret key: it is not the key holder")
        terms = terms_in(letter.facts)
        clients = letter.fact("clients", int)
        total = encrypted.decrypt(
            letter.parts.get(SUM, b""), self._keys.secret, terms, clients=clients
        )
        facts = {"client": number, "round": terms.round}
        return Envelope(kinds.DECRYPTED, facts, {NUMBERS: leaves.write(total.mean)})

    def _encrypted(
        self,
        letter: Envelope,
        t: int,
        start: Variables,
        masks: Masks,
        upload: Variables,
    ) -> bytes:
        if not self.public:
            raise InputError("this node has no public key: the server sent none")
        clients = letter.fact("clients", int)
        terms = encrypted.terms_of(start, masks, round=t, clients=clients)
        numbers = encrypted.pack(upload, masks)
        share = letter.fact("share", float)
        return encrypted.encrypt(numbers, self.public, share, terms)


def masks_in(parts: Mapping[str, bytes], like: Variables) -> Masks:
    """Returns the packed masks of a message.

    Args:
      parts: of the message.
      like: arrays of the shapes of the masks.

    Raises:
      InputError: if there are none of this structure.
    """
    packed = wire.decode(parts.get(MASKS, b"")).variables
    exchange.check_structure(packed, jax.tree.map(exchange.packed_like, like), "masks")
    return exchange.unpacked(packed, like)


def facts_of(terms: encrypted.Terms) -> dict[str, Any]:
    """Returns the terms of a sum as facts of a message."""
    return {
        "round": terms.round,
        "masks": terms.masks,
        "count": terms.count,
        "bound": terms.bound,
    }


def terms_in(facts: Mapping[str, Any]) -> encrypted.Terms:
    """Returns the terms that a message has.

    Raises:
      InputError: if it has none.
    """
    names = ("round", "masks", "count", "bound")
    if any(name not in facts for name in names):
        raise InputError("the message does not say which sum it is about")
    return encrypted.Terms(**{name: facts[name] for name in names})

"""Envelopes: the form of everything that server and nodes send each other.

An envelope is a message of `deploy.wire` without masks whose arrays are bytes: parts by
name, each a message of its own, and a few facts about them as JSON.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedsparsify_jax.deploy import wire
from fedsparsify_jax.errors import InputError, shown

LIMIT = 2**32
"""Bytes that an envelope may have."""


class Envelope(NamedTuple):
    """A message between the server and a node."""

    kind: str
    facts: Mapping[str, Any]  # whatever JSON can say
    parts: Mapping[str, bytes] = {}

    def fact(self, name: str, kind: type) -> Any:
        """Returns a fact.

        Raises:
          InputError: if it is missing, or of another kind.
        """
        value = self.facts.get(name)
        if type(value) is not kind:
            raise InputError(
                f"the message {shown(self.kind)} has {shown(value)} as {name}"
            )
        return value


def write(envelope: Envelope) -> bytes:
    """Returns an envelope as bytes.

    Example:
      >>> read(write(Envelope("join", {"client": 3}, {"model": b"12"})))
      Envelope(kind='join', facts={'client': 3}, parts={'model': b'12'})
    """
    parts = {
        name: np.frombuffer(part, np.uint8) for name, part in envelope.parts.items()
    }
    facts = {"kind": envelope.kind, "facts": dict(envelope.facts)}
    return wire.encode(parts, metadata=facts)


def read(message: bytes) -> Envelope:
    """Returns what is in an envelope.

    Raises:
      InputError: if the bytes are none.
    """
    letter = wire.decode(message, limit=LIMIT)
    kind, facts = letter.metadata.get("kind"), letter.metadata.get("facts")
    if not isinstance(kind, str) or not isinstance(facts, dict):
        raise InputError("the message is none of this federation: it says no kind")
    parts = {}
    for name, part in letter.variables.items():
        if not isinstance(part, np.ndarray) or part.dtype != np.uint8 or part.ndim != 1:
            raise InputError(f"the message {shown(kind)} has {shown(name)}, no bytes")
        parts[name] = part.tobytes()
    return Envelope(kind, facts, parts)

"""Encrypted messages: a row of numbers times a share, or a sum of such.

The body of a message is a head and, of every ciphertext, the residues of its two
polynomials in six bytes each; ``docs/encryption.md`` has the layout.
"""

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedsparsify_jax.deploy.encrypted import envelope
from fedsparsify_jax.deploy.encrypted.parameters import (
    DEGREE,
    MOST_CLIENTS,
    PRIME,
    RESIDUE_BYTES,
)
from fedsparsify_jax.deploy.encrypted.terms import Terms
from fedsparsify_jax.errors import InputError, counted

_HEAD = struct.Struct("<QQdId8s")


class Encrypted(NamedTuple):
    """A message that has been read."""

    residues: np.ndarray  # uint64 [chunks, 2, DEGREE]
    clients: int  # whose numbers are in the sum
    share: float  # the sum of their shares


def size(count: int) -> int:
    """Returns the bytes of a message with so many numbers.

    >>> [size(count) for count in (0, 1, 2048, 2049)]
    [88, 24664, 24664, 49240]
    """
    residues = 2 * DEGREE * chunks(count)
    return envelope.OVERHEAD + _HEAD.size + RESIDUE_BYTES * residues


def chunks(count: int) -> int:
    """Returns how many ciphertexts so many numbers fill."""
    return -(-count // DEGREE)


def write(message: Encrypted, key: bytes, terms: Terms) -> bytes:
    """Returns the bytes of a message.

    Args:
      message: its residues below `PRIME`.
      key: digest of the public key.
      terms: of the sum that it is for.
    """
    head = _HEAD.pack(
        terms.round,
        terms.count,
        terms.bound,
        message.clients,
        message.share,
        bytes.fromhex(terms.masks),
    )
    words = message.residues.astype("<u8").reshape(-1, 1).view(np.uint8)
    body = head + words[:, :RESIDUE_BYTES].tobytes()
    return envelope.sealed(envelope.MESSAGE, key, body)


def read(content: bytes, key: bytes, terms: Terms) -> Encrypted:
    """Returns the message that bytes are.

    Args:
      content: whatever arrived.
      key: digest of the public key it should be for.
      terms: of the sum that it should be for.

    Raises:
      InputError: if it is damaged, or for another key or sum.
    """
    message = envelope.opened(content, envelope.MESSAGE)
    if message.key != key:
        raise InputError("this encrypted message is for another key: it cannot be used")
    if len(message.body) < _HEAD.size:
        raise InputError("this encrypted message has no head")
    round, count, bound, clients, share, masks = _HEAD.unpack_from(message.body)
    sent = {"round": round, "masks": masks.hex(), "count": count, "bound": bound}
    _check_terms(sent, terms)
    if len(message.body) + envelope.OVERHEAD != size(terms.count):
        raise InputError(
            f"this encrypted message has {len(message.body) + envelope.OVERHEAD:,} "
            f"bytes, one of {counted(terms.count, 'number')} has {size(terms.count):,}"
        )
    if not 1 <= clients <= MOST_CLIENTS or not 0 < share <= 1 + 1e-9:
        raise InputError(
            f"this encrypted message is of {counted(clients, 'client')} with the share "
            f"{share}, which cannot be"
        )
    residues = _residues(message.body[_HEAD.size :])
    return Encrypted(residues=residues, clients=clients, share=share)


def _check_terms(sent: Mapping[str, Any], terms: Terms) -> None:
    for name, value in sent.items():
        expected = getattr(terms, name)
        if value != expected:
            raise InputError(
                f"this encrypted message is for another sum: its {name} is {value}, "
                f"not {expected}"
            )


def _residues(content: memoryview) -> np.ndarray:
    pieces = np.frombuffer(content, np.uint8).reshape(-1, RESIDUE_BYTES)
    words = np.zeros((len(pieces), 8), np.uint8)
    words[:, :RESIDUE_BYTES] = pieces
    residues = words.view("<u8").astype(np.uint64, copy=False)
    if (residues >= PRIME).any():
        raise InputError("this encrypted message has numbers that no ciphertext has")
    return residues.reshape(-1, 2, DEGREE)

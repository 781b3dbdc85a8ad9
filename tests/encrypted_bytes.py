"""Encrypted messages and keys written by hand, by the tables of docs/encryption.md."""

import hashlib
import struct

import numpy as np

PRIME = 2**48 - 16_383
MASKS = "0123456789abcdef"


def checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def enveloped(kind: bytes, key: bytes, body: bytes, version=1, parameters=1) -> bytes:
    head = kind + struct.pack("<HH", version, parameters) + key
    return head + body + checksum(head + body)


KEY = checksum(b"any key")
PUBLIC = enveloped(b"fedsppub", KEY, b"any key")  # whose inside adding does not look at


def message(residues, share=0.25, clients=1, key=KEY, round=7, bound=2.0, count=3):
    head = struct.pack("<QQdId", round, count, bound, clients, share)
    words = b"".join(int(word).to_bytes(6, "little") for word in residues)
    return enveloped(b"fedspmsg", key, head + bytes.fromhex(MASKS) + words)


def residues_of(content: bytes) -> np.ndarray:
    """Envelope 28 and 16, head 44 bytes."""
    words = content[72:-16]
    pieces = [words[n : n + 6] for n in range(0, len(words), 6)]
    return np.array([int.from_bytes(piece, "little") for piece in pieces])


def sealed_again(content: bytes) -> bytes:
    """A message that was changed by someone who knows the format."""
    return content[:-16] + checksum(content[:-16])

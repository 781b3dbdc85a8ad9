"""The IDX format of the MNIST family: big-endian header, then raw bytes.

Header: two zero bytes, a type code, the number of dimensions, then each dimension as a
32-bit unsigned integer. The MNIST family uses type 8, unsigned bytes.
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from fedsparsify_jax.errors import InputError

_UNSIGNED_BYTE = 8
LARGEST = 2**30
"""Bytes of a file, unpacked; those of the data sets in this format have 154 MB."""


def read_bytes(path: Path) -> bytes:
    """Reads a file, and decompresses it if its name ends in ``.gz``.

    Raises:
      InputError: if it cannot be read, its compression is damaged, or it is larger
        than 1 GiB.
    """
    packed = path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            contents = file.read(LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} is truncated or not gzip ({error}): fetch the file again"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(contents) > LARGEST:
        raise InputError(
            f"{path} has more than {LARGEST:,} bytes"
            f"{' unpacked' * packed}: is this the right file?"
        )
    return contents


def parse_idx(contents: bytes, name: str) -> np.ndarray:
    """Parses an IDX file of unsigned bytes.

    Args:
      contents: the (decompressed) file.
      name: of the file, for errors.

    Raises:
      InputError: for anything but exactly such a file.

    Example:
      >>> header = bytes([0, 0, 8, 1]) + (3).to_bytes(4, "big")
      >>> parse_idx(header + bytes([7, 8, 9]), "labels")
      array([7, 8, 9], dtype=uint8)
    """
    if len(contents) < 4 or contents[:2] != b"\0\0":
        raise InputError(f"{name} is not an IDX file: wrong magic number")
    kind, rank = contents[2], contents[3]
    if kind != _UNSIGNED_BYTE:
        raise InputError(f"{name} has IDX type {kind}: expected 8, unsigned bytes")
    start = 4 + 4 * rank
    if len(contents) < start:
        raise InputError(f"{name} is truncated inside its header: fetch it again")
    shape = struct.unpack(f">{rank}I", contents[4:start])
    expected, length = math.prod(shape), len(contents) - start
    if length != expected:
        state = "truncated" if length < expected else "too long"
        raise InputError(
            f"{name} is {state}: {length:,} bytes of data where its header says "
            f"{expected:,}; fetch it again"
        )
    flat = np.frombuffer(contents, np.uint8, offset=start)
    try:
        return flat.reshape(shape)
    except ValueError as error:  # an empty array of absurd rank or extent
        raise InputError(f"{name} has an impossible header: {error}") from error


def check_sha256(contents: bytes, expected: str, name: str) -> None:
    """Compares the SHA-256 of the decompressed contents.

    Raises:
      InputError: if they differ.
    """
    digest = hashlib.sha256(contents).hexdigest()
    if digest != expected:
        raise InputError(
            f"{name} is corrupt or not the official file (SHA-256 {digest[:12]}..., "
            f"expected {expected[:12]}...): fetch it again"
        )

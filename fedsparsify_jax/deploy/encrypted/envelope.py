"""The envelope of keys and messages: kind, version, key, body, checksum.

====== ========================================================
bytes
====== ========================================================
8      `PUBLIC`, `SECRET` or `MESSAGE`
2      `VERSION` of the format
2      number of the set of parameters
16     digest of the public key that all this belongs to
...    the body
16     BLAKE2b of all bytes before; a checksum, not a signature
====== ========================================================

Numbers are little-endian.
"""

import hashlib
import struct
from typing import NamedTuple

from fedsparsify_jax.deploy.encrypted.parameters import PARAMETERS
from fedsparsify_jax.errors import InputError

VERSION = 1
"""Of the format of keys and messages."""
PUBLIC, SECRET, MESSAGE = b"fedsppub", b"fedspsec", b"fedspmsg"
"""First bytes of each kind."""
_NAMES = {PUBLIC: "public key", SECRET: "secret key", MESSAGE: "encrypted message"}
_HEAD = struct.Struct("<8sHH16s")
_DIGEST = 16
OVERHEAD = _HEAD.size + _DIGEST
"""Bytes of an envelope around its body."""


class Opened(NamedTuple):
    """Content of an envelope."""

    key: bytes  # digest of the public key
    body: memoryview


def digest(content: bytes | memoryview) -> bytes:
    """Returns the 16 bytes that tell contents apart."""
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


def sealed(kind: bytes, key: bytes, body: bytes) -> bytes:
    """Returns a body in its envelope.

    Args:
      kind: one of `PUBLIC`, `SECRET`, `MESSAGE`.
      key: digest of the public key.
      body: of any length.
    """
    content = _HEAD.pack(kind, VERSION, PARAMETERS, key) + body
    return content + digest(content)


def opened(content: bytes, kind: bytes) -> Opened:
    """Returns what is in an envelope.

    Args:
      content: whatever arrived.
      kind: it should be.

    Raises:
      InputError: if it is of another kind or version, or damaged.
    """
    if not isinstance(content, bytes | bytearray | memoryview):
        raise InputError(f"{_article(kind)} is bytes, not {type(content).__name__}")
    view = memoryview(content)
    _check_kind(bytes(view[: len(kind)]), kind)
    if len(view) < OVERHEAD:
        raise InputError(f"this {_NAMES[kind]} is cut off: send it again")
    _, version, parameters, key = _HEAD.unpack_from(view)
    if version != VERSION:
        raise InputError(
            f"this {_NAMES[kind]} has the format version {version}, this library reads "
            f"{VERSION}: update the older of the two"
        )
    if parameters != PARAMETERS:
        raise InputError(
            f"this {_NAMES[kind]} has the parameters {parameters}, this library has "
            f"{PARAMETERS}: make new keys"
        )
    if digest(view[:-_DIGEST]) != view[-_DIGEST:]:
        raise InputError(f"this {_NAMES[kind]} is damaged or cut off: send it again")
    return Opened(key=key, body=view[_HEAD.size : -_DIGEST])


def _check_kind(start: bytes, kind: bytes) -> None:
    if start == kind:
        return
    other = f"it is {_article(start)}" if start in _NAMES else "its first bytes differ"
    raise InputError(f"this is no {_NAMES[kind]} of fedsparsify: {other}")


def _article(kind: bytes) -> str:
    name = _NAMES[kind]
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"

"""Digests at the end of programs, whose readers cannot be trusted with damage.

onnxruntime ends the process over some damaged files, and JAX finds damage only when it
compiles. So files of programs end with a digest, and nothing else is given to either.
"""

import hashlib
from pathlib import Path

from fedsparsify_jax.errors import InputError

LENGTH = 64
"""Letters of a digest."""


def with_digest(content: bytes, before: bytes = b"") -> bytes:
    """Returns a file's content with its digest behind it.

    Args:
      content: the file.
      before: what stands between both.

    Example:
      >>> with_digest(b"program", b"#").partition(b"#")[2][:8]
      b'675d56b0'
    """
    return content + before + _digest(content)


def without_digest(path: Path, before: bytes = b"") -> bytes:
    """Reads a file and returns the content that has been put before its digest.

    Args:
      path: the file.
      before: what stands between both.

    Raises:
      InputError: if the digest is missing or that of something else.
    """
    whole = path.read_bytes()
    content, end = whole[: -len(before) - LENGTH], whole[-len(before) - LENGTH :]
    if end != before + _digest(content):
        raise InputError(
            f"{path} is no whole model file of this library: its digest is missing or "
            "differs"
        )
    return content


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=LENGTH // 2).hexdigest().encode()

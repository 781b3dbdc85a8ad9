"""Limits on the size of a file's contents, checked before it is unpacked."""

import os

from fedsparsify_jax.errors import InputError

DEFLATE = 1032
"""Bytes that one byte of gzip or zip can stand for, at most."""


def memory() -> int:
    """Returns the bytes of the machine's memory, 2^62 if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on every system
        return 2**62


def check_size(where: str, promised: int, stored: int, *, packed: bool) -> None:
    """Refuses a header that promises more than its file can hold.

    Args:
      where: the file, for errors.
      promised: bytes once unpacked.
      stored: bytes that they are in the file.
      packed: whether the file is compressed, by gzip or zip's usual method.

    Raises:
      InputError: if it is more than the file can hold, or than fits into memory.

    Example:
      >>> check_size("scan.nii", 10**12, 352, packed=False)
      Traceback (most recent call last):
      ...
      fedsparsify_jax.errors.InputError: scan.nii is damaged: its header promises \
1,000,000,000,000 bytes, the file can hold 352
    """
    most = stored * DEFLATE + 1024 if packed else stored
    if promised > most:
        raise InputError(
            f"{where} is damaged: its header promises {promised:,} bytes, the file can "
            f"hold {most:,}"
        )
    if promised > memory():
        raise InputError(
            f"{where} unpacks to {promised:,} bytes, this machine has {memory():,}"
        )

"""One run at a time in a directory: an operating-system lock on a file in it.

The system lets go of the lock when its owner ends, however it ends, so a file that
was left behind by a kill locks nobody out. What is written in it is for people.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError

try:
    import fcntl
except ImportError:  # not a POSIX system: there runs are not kept apart
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""The file; it is there while a run is going on, or after one was killed."""


def _try(handle: int) -> bool:
    """Takes the lock, unless another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _refusal(directory: Path, handle: int) -> InputError:
    owner = os.pread(handle, 200, 0).decode(errors="replace").strip()
    return InputError(
        f"--out {directory} is in use by {owner or 'another process'}: wait for it, "
        "stop it, or name another directory"
    )


def refuse_if_locked(directory: Path) -> None:
    """Complains if somebody else has the lock; takes and writes nothing.

    Raises:
      InputError: naming the owner's process and host.
    """
    try:
        handle = os.open(directory / LOCK, os.O_RDWR)
    except OSError:
        return
    try:
        if not _try(handle):
            raise _refusal(directory, handle)
    finally:
        os.close(handle)  # gives the lock back


def _is_there(handle: int, path: Path) -> bool:
    """Whether a file that was opened is still the one of that name."""
    with contextlib.suppress(FileNotFoundError):
        mine, named = os.fstat(handle), path.stat()
        return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)
    return False


def _acquire(directory: Path) -> int:
    path = directory / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _try(handle):
            try:
                raise _refusal(directory, handle)
            finally:
                os.close(handle)
        # The former owner may have removed it in between: then it locks nothing.
        if _is_there(handle, path):
            return handle
        os.close(handle)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory, which is made if need be.

    Raises:
      InputError: if somebody else has it, or the directory cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as name, locked(Path(name)):
      ...     refuse_if_locked(Path(name))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      fedsparsify_jax.errors.InputError: --out ... is in use by process ...
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = _acquire(directory)
    except OSError as error:
        raise InputError(
            f"cannot write --out {directory}: {error.strerror}; name a directory that "
            "can be written"
        ) from error
    try:
        owner: Any = f"process {os.getpid()} on {socket.gethostname()}\n"
        with contextlib.suppress(OSError):  # a full disk, say: it is only for people
            os.ftruncate(handle, 0)
            os.pwrite(handle, owner.encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            (directory / LOCK).unlink()
        os.close(handle)

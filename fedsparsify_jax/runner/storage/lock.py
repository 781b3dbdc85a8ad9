"""One run at a time in a directory: an operating-system lock on a file in it.

The system releases the lock when its owner ends, however it ends. A file that a kill
left behind locks out no other process. Its text, the owner's name, is for people.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from fedsparsify_jax.errors import InputError

LOCK = ".lock"
"""The file; it exists while a run is going on, or after one was killed."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class InUseError(InputError):
    """Another process has the lock of a directory.

    Attributes:
      owner: that process and its host, as far as is known.
    """

    def __init__(self, directory: Path, owner: str):
        self.owner = owner
        super().__init__(
            f"--out {directory} is in use by {owner}: wait for it, stop it, or name "
            "another directory"
        )


def _acquire(directory: Path, seconds: float = 0.0) -> filelock.FileLock:
    """Takes the lock; without effect on a file system that has none.

    Raises:
      InUseError: if another process has it for longer than ``seconds``.
      OSError: if the file cannot be opened.
    """
    # A soft lock in its place would outlive a killed owner.
    lock = filelock.FileLock(directory / LOCK, timeout=seconds, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        owner = ""
        with contextlib.suppress(OSError):
            owner = (directory / LOCK).read_text(errors="replace")[:200].strip()
        raise InUseError(directory, owner or "another process") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return lock


def unwritable(directory: Path, reason: str | None) -> str:
    """Returns the complaint about a directory that cannot be written."""
    return (
        f"cannot write --out {directory}: {reason}; name a directory that can be "
        "written"
    )


@contextlib.contextmanager
def making(directory: Path) -> Iterator[None]:
    """Makes a directory, to write the first files into it.

    Raises:
      InputError: if the directory, or a file inside, cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(unwritable(directory, error.strerror)) from error


def refuse_if_locked(directory: Path) -> None:
    """Refuses a directory that another process has locked; changes nothing.

    Raises:
      InUseError: naming that process and its host.
    """
    if (directory / LOCK).exists():
        with contextlib.suppress(OSError):
            _acquire(directory).release()


def owner(directory: Path) -> str | None:
    """Returns the process that has locked a directory, None if there is none."""
    try:
        refuse_if_locked(directory)
    except InUseError as error:
        return error.owner
    return None


@contextlib.contextmanager
def locked(directory: Path, seconds: float = 0.0) -> Iterator[bool]:
    """Holds the lock of a directory, and makes it if it is missing.

    Args:
      directory: to lock.
      seconds: to wait for another process.

    Yields:
      Whether there is a lock: some file systems have none.

    Raises:
      InUseError: if another process has it.
      InputError: if the directory cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as name, locked(Path(name)):
      ...     refuse_if_locked(Path(name))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      fedsparsify_jax.runner.storage.lock.InUseError: --out ... is in use by ...
    """
    with making(directory):
        lock = _acquire(directory, seconds)
    path = directory / LOCK
    try:
        with contextlib.suppress(OSError):  # a full disk, say: it is only for people
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield lock.is_locked
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()

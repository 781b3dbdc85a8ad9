"""The claims of processes on the runs of a sweep that they share.

SWEEP/.lock           held by a sweep of a single process; by one of several only while
                      it reads or writes what all have in common
SWEEP/shares/K-of-N/  locked by process K while it is at work
SWEEP/RUN/            locked by whoever trains that run, here as in ``train``

All of them are locks of the operating system, see `lock`: they end with their owner,
and what a killed process had claimed is free for the others.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.sharing import Share
from fedsparsify_jax.runner.storage.lock import InUseError, locked, owner

SHARES = "shares"
_PATIENCE = 60.0  # seconds that others may take for what all have in common
_GLANCE = 0.2  # seconds that someone may look who has a claim


def at_work(sweep: Path) -> dict[str, str]:
    """Returns the shares that some process works on, by name, and the process."""
    owners = {path.name: owner(path) for path in sorted(sweep.glob(f"{SHARES}/*"))}
    return {name: process for name, process in owners.items() if process is not None}


@contextlib.contextmanager
def alone(sweep: Path) -> Iterator[None]:
    """Holds a sweep's directory against all other processes.

    Raises:
      InputError: if any works on it.
    """
    with locked(sweep):
        for name, process in at_work(sweep).items():
            raise InputError(
                f"--out {sweep} is in use by {process}, share {name}: join it with "
                "--share K/N, wait for it, stop it, or name another directory"
            )
        yield


@contextlib.contextmanager
def in_common(sweep: Path) -> Iterator[None]:
    """Holds what the processes of a sweep have in common, for a moment.

    Raises:
      InputError: if a sweep of a single process has all of it.
    """
    with locked(sweep, _PATIENCE):
        yield


@contextlib.contextmanager
def taking_part(sweep: Path, share: Share) -> Iterator[None]:
    """Holds one share of a sweep.

    Raises:
      InputError: if another process has this share, or the file system no locks.
    """
    try:
        lock = contextlib.ExitStack()
        is_locked = lock.enter_context(locked(sweep / SHARES / share.name, _GLANCE))
    except InUseError as error:
        raise InputError(
            f"--share {share} of {sweep} is taken by {error.owner}: every process has "
            "a share of its own"
        ) from None
    with lock:
        if not is_locked:
            raise InputError(
                f"--share needs a file system with locks, and {sweep} is on none: "
                "mount it with them (Lustre: -o flock), or name another directory"
            )
        yield


@contextlib.contextmanager
def claimed(runs: Sequence[Path]) -> Iterator[list[Path]]:
    """Holds run directories that no other process holds.

    Args:
      runs: in an order that all processes have. Who has the first has most likely
        come for all of them.

    Yields:
      The directories that are held; none if another process has the first.
    """
    with contextlib.ExitStack() as stack:
        mine: list[Path] = []
        for run in runs:
            try:
                stack.enter_context(locked(run, _GLANCE))
            except InUseError:
                if not mine:
                    break
                continue
            mine.append(run)
        yield mine

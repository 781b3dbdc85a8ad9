"""Checkpoints through Orbax; the only module that imports it.

A checkpoint is the whole `State` after a completed round. Random numbers of a round
depend on the seed and the round's number alone, so state and configuration decide
everything that follows.

Of several processes the first one writes and reads for all, whole arrays without a
trace of how they were spread: no shared file system is needed, and a run resumes on any
number of processes and devices.
"""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from orbax.checkpoint import v1 as ocp

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner import distributed
from fedsparsify_jax.types import State


class Checkpoints:
    """The newest states of one run, on disk: a folder named for the round each.

    A context manager; all processes call `save` and `restore` together.
    """

    def __init__(self, directory: Path, *, keep: int = 2):
        self._directory, self._keep = directory.absolute(), keep
        self._context = ocp.Context()
        if not distributed.alone():  # else Orbax would wait for the others
            self._context.multiprocessing.active_processes = {0}

    def __enter__(self) -> "Checkpoints":
        self._context.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context.__exit__(kind, error, trace)

    def _rounds(self) -> list[int]:
        """The rounds of whole checkpoints: others have longer names until complete."""
        if not self._directory.is_dir():
            return []
        names = [path.name for path in self._directory.iterdir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def save(self, completed: int, state: State) -> None:
        """Saves the state after ``completed`` rounds, whole or not at all.

        Synchronous: the state is donated to the next round right afterwards.
        """
        whole = distributed.to_host(state)
        if not distributed.is_first():
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        ocp.save(self._directory / str(completed), whole)
        for old in self._rounds()[: -self._keep]:
            shutil.rmtree(self._directory / str(old))

    def restore(self, like: State) -> State | None:
        """The newest state, with the shapes of ``like``; None if there is none.

        Returns:
          NumPy arrays, to be placed where the round wants them.

        Raises:
          InputError: if it cannot be read or belongs to another model.
        """
        state = distributed.to_host(like)

        def read() -> int:
            nonlocal state
            rounds = self._rounds()
            if rounds:
                state = self._load(rounds[-1], state)
            return len(rounds)

        if not distributed.first_decides(read):
            return None
        return state if distributed.alone() else distributed.from_first(state)

    def _load(self, completed: int, like: State) -> State:
        path = self._directory / str(completed)
        try:
            restored: Any = ocp.load(path, like)
        except Exception as error:  # orbax and tensorstore raise many kinds
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"the checkpoint of round {completed} in {self._directory} cannot be "
                f"read ({reason}): remove {path} to fall back to the one before"
            ) from error
        return restored

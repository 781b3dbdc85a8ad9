"""Checkpoints through Orbax; the only module that imports it.

A checkpoint is the whole `State` after a completed round. Random numbers of a round
depend on the seed and the round's number alone, so state and configuration decide
everything that follows.

Of several processes the first one writes and reads for all, whole arrays without a
trace of how they were spread: no shared file system is needed, and a run resumes on any
number of processes and devices.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner import distributed
from fedsparsify_jax.types import State


def _abstract(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _orbax(directory: Path, keep: int) -> ocp.training.Checkpointer:
    """Orbax for this process alone, which would else wait for all others."""
    context = ocp.Context()
    if not distributed.alone():
        context.multiprocessing.active_processes = {0}
        directory.mkdir(parents=True, exist_ok=True)  # in this mode Orbax does not
    return ocp.training.Checkpointer(
        directory.absolute(),
        context=context,
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
    )


class Checkpoints:
    """The newest states of one run, on disk.

    All processes call `save` and `restore` together.
    """

    def __init__(self, directory: Path, *, keep: int = 2):
        self._directory = directory
        self._orbax = _orbax(directory, keep) if distributed.is_first() else None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._orbax is not None:
            self._orbax.close()

    def save(self, completed: int, state: State) -> None:
        """Saves the state after ``completed`` rounds, whole or not at all.

        Synchronous: the state is donated to the next round right afterwards.
        """
        whole = distributed.to_host(state)
        if self._orbax is not None:
            self._orbax.save(completed, whole)

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
            found = self._load(state)
            state = state if found is None else found
            return int(found is not None)

        if not distributed.first_decides(read):
            return None
        return state if distributed.alone() else distributed.from_first(state)

    def _load(self, like: State) -> State | None:
        assert self._orbax is not None
        latest = self._orbax.latest
        if latest is None:
            return None
        try:
            restored: Any = self._orbax.load(latest.step, jax.tree.map(_abstract, like))
        except Exception as error:  # orbax and tensorstore raise many kinds
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"the checkpoint of round {latest.step} in {self._directory} cannot be "
                f"read ({reason}): remove {self._directory / str(latest.step)} to fall "
                "back to the one before"
            ) from error
        return restored

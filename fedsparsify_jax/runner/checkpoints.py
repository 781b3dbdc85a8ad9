"""Checkpoints through Orbax; the only module that imports it.

A checkpoint is the whole `State` after a completed round. Random numbers of a round
depend on the seed and the round's number alone, so state and configuration decide
everything that follows.

Several processes save and restore together, in a directory that all of them see; what
is there twice is written once. A run resumes on any number of processes and devices.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import State


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


class Checkpoints:
    """The newest states of one run, on disk."""

    def __init__(self, directory: Path, *, keep: int = 2):
        self._directory = directory
        self._orbax = ocp.training.Checkpointer(
            directory.absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._orbax.close()

    def save(self, completed: int, state: State) -> None:
        """Saves the state after ``completed`` rounds, whole or not at all.

        Synchronous: the state is donated to the next round right afterwards.
        """
        self._orbax.save(completed, state)

    def restore(self, like: State) -> State | None:
        """The newest state, with the shapes and placement of ``like``; None if none.

        Raises:
          InputError: if it cannot be read or belongs to another model.
        """
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

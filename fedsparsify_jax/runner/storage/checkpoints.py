"""Checkpoints through Orbax; the only module that imports it.

A checkpoint is the whole `State` after a completed round, and the files that
`checkpoint_files` puts beside it. Random numbers of a round depend on the seed and the
round's number alone, so state and configuration decide everything that follows.

Saving continues while the next rounds run. The state is copied before `save` returns,
so it may be donated to the next round.

Orbax is imported where it is first needed, for that takes a fifth of a second, and a
run can begin without it.

Several processes save and restore together, in a directory that all of them see.
Replicated arrays are written once, and the first process writes all other files. A run
resumes on any number of processes and devices.
"""

import errno
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import jax

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.process import distributed
from fedsparsify_jax.runner.storage import checkpoint_files as files
from fedsparsify_jax.types import State

# Errors of a file system that cannot take a checkpoint.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _layout(state: State) -> list[str]:
    """Returns place, dtype and shape of every array of a state."""
    return [
        f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


def _reason(error: BaseException) -> str:
    """Returns a few words of an error; the messages of libraries are long."""
    text = str(error)
    for words in ("No space left on device", "Disk quota exceeded", "File too large"):
        if words in text:
            return words
    lines = text.splitlines()
    return lines[0][:200] if lines else type(error).__name__


class Checkpoints:
    """The checkpoints of one run, on disk.

    Args:
      directory: of all of them; made when the first is saved.
      config: the content of the run's ``config.json``, which goes into each.
      keep_last: number of the latest that stay, at least 1.
      keep_best: number of the best that stay besides.
      higher_is_better: whether a larger value is better.
    """

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any] | None = None,
        *,
        keep_last: int = 2,
        keep_best: int = 0,
        higher_is_better: bool = True,
    ):
        self._directory = directory.absolute()
        self._config = config or {}
        self._policy = (keep_last, keep_best, higher_is_better)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: tuple[int, Future[None]] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            # In a job that has lost a process, saving may never end.
            self._thread.shutdown(wait=error is None or distributed.alone())

    def save(
        self,
        completed: int,
        state: State,
        records: Sequence[files.Record] = (),
        value: float | None = None,
        messages: bytes | None = None,
    ) -> None:
        """Starts to save the state after ``completed`` rounds, whole or not at all.

        Args:
          completed: rounds, at least 1.
          state: may be donated as soon as this returns.
          records: of all rounds.
          value: that the last one is judged by, None if it was not evaluated.
          messages: of `runner.messages.Meter.saved`, None if there are none.

        Raises:
          InputError: if an earlier one could not be saved, or this one not begun.
        """
        from orbax.checkpoint import v1 as ocp

        self.wait()
        records, layout = list(records), _layout(state)
        more = {} if messages is None else {files.MESSAGES: messages}
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            place = files.place_of(self._directory, completed)
            written = ocp.save_async(place / files.STATE, state)
        except Exception as error:  # orbax and tensorstore raise many kinds
            self._give_up(completed, error)

        def finish() -> None:
            written.result()
            if distributed.is_first():
                files.finish(
                    self._directory,
                    completed,
                    self._config,
                    records,
                    value,
                    layout,
                    more,
                )
                files.thin_out(self._directory, *self._policy)

        self._pending = completed, self._thread.submit(finish)
        if not distributed.alone():
            # Otherwise the next save would wait for this one, and JAX would notice the
            # loss of a process first, and abort.
            self.wait()

    def wait(self, *, only_if_done: bool = False) -> None:
        """Waits for the checkpoint that is being saved.

        Args:
          only_if_done: do not wait, only complain.

        Raises:
          InputError: if it could not be saved; the earlier ones are as they were. In
            one of several processes other errors than those of files are raised as
            they are.
        """
        if self._pending is None:
            return
        completed, future = self._pending
        if only_if_done and not future.done():
            return
        self._pending = None
        try:
            future.result()
        except Exception as error:
            self._give_up(completed, error)

    def _give_up(self, completed: int, error: Exception) -> NoReturn:
        place = files.place_of(self._directory, completed)
        shutil.rmtree(place, ignore_errors=True)
        saved = files.rounds(self._directory)
        after = f"after round {saved[-1]}" if saved else "with round 1"
        if not distributed.alone() and getattr(error, "errno", None) not in _FULL:
            raise error  # most likely another process was lost: not about files
        raise InputError(
            f"cannot save the checkpoint of round {completed} in {self._directory} "
            f"({_reason(error)}): once that is mended, the same command with --resume "
            f"goes on {after}"
        ) from error

    def messages(self, completed: int) -> bytes | None:
        """Returns what `save` was given as messages; of a whole checkpoint."""
        path = self._directory / str(completed) / files.MESSAGES
        return path.read_bytes() if path.exists() else None

    def restore(self, completed: int, like: State) -> State:
        """Returns the state after ``completed`` rounds.

        Args:
          completed: rounds; of a whole checkpoint.
          like: state with the shapes and places of the result.

        Raises:
          InputError: if it cannot be read or belongs to another model.
        """
        from orbax.checkpoint import v1 as ocp

        path = self._directory / str(completed)
        wrong = files.other_layout(self._directory, completed, _layout(like))
        if not wrong:
            try:
                abstract = jax.tree.map(_abstract, like)
                restored: Any = ocp.load(path / files.STATE, abstract)
                return restored
            except Exception as error:
                wrong = f"cannot be read: {_reason(error)}"
        raise InputError(
            f"the checkpoint {path} is whole but does not fit this run ({wrong}): "
            f"resume it with the versions and options in its {files.CONFIG}, or name "
            "another --out"
        )

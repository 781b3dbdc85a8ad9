"""Where a group of a sweep has got to, so that a pre-empted sweep loses a minute.

SWEEP/groups/NAME/   checkpoints of a group's states, see `checkpoint_files`; NAME is
                     made of what decides them. Gone once its runs are finished.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fedsparsify_jax.runner.storage.checkpoint_files import (
    clean,
    newest_or_refuse,
    set_aside,
)
from fedsparsify_jax.runner.storage.checkpoints import Checkpoints
from fedsparsify_jax.types import State

Record = dict[str, Any]

GROUPS = "groups"
SAVE_SECONDS = 60.0
"""Between two checkpoints of a group."""


class GroupCheckpoints:
    """The checkpoints of one group.

    Args:
      sweep: the sweep's directory.
      decisive: JSON values that decide the states: options of the trials, data.
    """

    def __init__(self, sweep: Path, decisive: Any):
        text = json.dumps(decisive, sort_keys=True)
        self._name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._directory = sweep / GROUPS / self._name
        self._files = Checkpoints(self._directory, {"run": self._name})
        self._saved = time.monotonic()

    def __enter__(self) -> "GroupCheckpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def restore(self, like: State) -> tuple[State, list[list[Record]]] | None:
        """The newest state and every trial's records; None to begin with round 1.

        Sets damaged checkpoints aside.

        Raises:
          InputError: if there are checkpoints, but no good one.
        """
        found, damaged = newest_or_refuse(self._directory, self._name)
        for completed in damaged:
            set_aside(self._directory, completed)
        clean(self._directory)
        if found is None:
            return None
        rounds = [row["cells"] for row in found.records]
        records = [list(cell) for cell in zip(*rounds, strict=True)]
        return self._files.restore(found.round, like), records

    def save(
        self, state: State, records: Sequence[Sequence[Record]], *, now: bool = False
    ) -> None:
        """Starts to save, if it is time; waits until it is done if it has to be now.

        Args:
          state: of all trials; may be donated afterwards.
          records: of every trial, all rounds.
          now: whether the sweep is about to stop.

        Raises:
          InputError: if it cannot be saved.
        """
        self._files.wait(only_if_done=True)
        if not now and time.monotonic() - self._saved < SAVE_SECONDS:
            return
        rows = [{"cells": list(cells)} for cells in zip(*records, strict=True)]
        self._files.save(len(rows), state, rows)
        if now:
            self._files.wait()
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Removes them: the group's runs are finished."""
        self._files.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
        parent = self._directory.parent
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()

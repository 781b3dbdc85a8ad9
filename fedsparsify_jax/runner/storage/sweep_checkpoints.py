"""Checkpoints of a program group, so that a pre-empted sweep loses a minute.

SWEEP/groups/NAME/   checkpoints of a group's states, see `checkpoint_files`; NAME is
                     made of what decides them. Gone once its runs are finished.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsparsify_jax.runner.storage import checkpoint_files
from fedsparsify_jax.runner.storage.checkpoint_files import Record
from fedsparsify_jax.runner.storage.checkpoints import Checkpoints
from fedsparsify_jax.types import State

GROUPS = "groups"
SAVE_SECONDS = 60.0
"""Between two checkpoints of a group."""


def remove_all(sweep: Path) -> None:
    """Removes what is left in a sweep whose runs are all finished.

    A kill while the runs of a group were written leaves the group's, and so does a
    start that cuts groups into other pieces.
    """
    shutil.rmtree(sweep / GROUPS, ignore_errors=True)


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

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def restore(self, like: State) -> tuple[State, list[list[Record]]] | None:
        """Returns the newest state and every trial's records; None before round 1.

        Sets damaged checkpoints aside.

        Raises:
          InputError: if there are checkpoints, but no whole one.
        """
        inventory = checkpoint_files.read(self._directory, self._name)
        saved = inventory.newest_or_refuse()
        checkpoint_files.tidy(self._directory, inventory.renames())
        if saved is None:
            return None
        rounds = [row["cells"] for row in saved.records]
        records = [list(trial) for trial in zip(*rounds, strict=True)]
        return self._files.restore(saved.round, like), records

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
        rows = [{"cells": list(trials)} for trials in zip(*records, strict=True)]
        self._files.save(len(rows), state, rows)
        if now:
            self._files.wait()
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Removes all of them, once the group's runs are finished."""
        self._files.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
        parent = self._directory.parent
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()

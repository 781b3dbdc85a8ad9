"""The run directory: who may use it, and the small files in it.

config.json     the resolved options, the versions they ran with, fingerprints of the
                data, and what a resumed run was allowed to change
partition.json  what the clients hold, see `partition_file`
metrics.jsonl   one JSON object a round
summary.json    written at the end
checkpoints/    see `checkpoint_files`
model/          the final model, see `model_files`
clients/        the clients' data, with --client-data disk, see `data.population`
.lock           while a run is going on, see `lock`
"""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import TrainConfig, to_json
from fedsparsify_jax.runner.storage.checkpoint_files import (
    Saved,
    clean,
    newest_or_refuse,
    set_aside,
)
from fedsparsify_jax.runner.storage.fingerprints import Fingerprints
from fedsparsify_jax.runner.storage.lock import LOCK, locked, refuse_if_locked
from fedsparsify_jax.runner.storage.manifest import own_digest
from fedsparsify_jax.runner.storage.resume import (
    Change,
    changed_options,
    refuse_data,
    refuse_options,
    told,
    versions_note,
)

Record = dict[str, Any]

_PACKAGES = (
    "fedsparsify_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
)


def default_path(config: TrainConfig) -> Path:
    """A new directory under ``runs``, named for the time and what is run."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{stamp}-{config.dataset}-{config.algorithm}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def write_whole(path: Path, text: str) -> None:
    """All of the text or the old file: never a torn one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _json(content: Any) -> str:
    return json.dumps(content, indent=2) + "\n"


def versions() -> dict[str, str]:
    """What a run depends on, and in which version it is installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _whole_config(path: Path) -> dict[str, Any] | None:
    """The content of a ``config.json``, None if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = content.get("digest", own := own_digest(content)) == own
        return content if whole and isinstance(content["options"], dict) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class RunDirectory:
    """One run's files.

    Nothing is touched before `claim`, so a run that fails its checks leaves no trace.

    Attributes:
      path: where.
      notes: what `check` found that people should know.
      content: of ``config.json``, after `claim`.
    """

    def __init__(self, path: Path, config: TrainConfig):
        self.path = path
        self.notes: list[str] = []
        self.content: dict[str, Any] = {}
        self._config = to_json(config)
        self._allow, self._mine = config.allow_changes, False
        self._before: dict[str, Any] = {}
        self._changes: dict[str, Change] = {}
        self.model = path / "model"
        self.checkpoints = path / "checkpoints"
        self.clients = path / "clients"
        self._metrics = path / "metrics.jsonl"

    def check(self, *, resume: bool) -> bool:
        """Whether there is a run to continue; touches nothing.

        Raises:
          InputError: if the directory is used and not to be resumed, holds something
            that is not a run, or a run with other options; if another process is at
            work there; if all checkpoints are damaged.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path} is a file: name a directory")
        if not self._mine:
            refuse_if_locked(self.path)
        if not self._used():
            self._check_writable()
            return False
        if not resume:
            raise InputError(
                f"--out {self.path} is not empty: add --resume to continue the run in "
                "it, or name another directory"
            )
        self.notes.clear()
        self._before = before = self._read_config()
        self._changes = changed_options(before["options"], self._config)
        refuse_options(self.path, self._changes, self._allow)
        if self._changes:
            self.notes.append(
                f"changes allowed: {told(self._changes)}; this run is no longer the "
                "one that either value alone would give"
            )
        other = versions_note(before.get("versions", {}), versions())
        if other:
            self.notes.append(other)
        return True

    def _used(self) -> bool:
        """Whether more is there than a start that was killed inside its `claim`."""
        if not self.path.is_dir():
            return False
        names = {path.name for path in self.path.iterdir()}
        return bool(names - {"config.json.partial", LOCK})

    def _read_config(self) -> dict[str, Any]:
        """The content of ``config.json``, or of its copy in the newest checkpoint."""
        content = _whole_config(self.path / "config.json")
        if content is not None:
            newest_or_refuse(self.checkpoints, content.get("run"))
            return content
        found, _ = newest_or_refuse(self.checkpoints)
        if found is not None:
            self.notes.append(
                "config.json was damaged: taken from the checkpoint of round "
                f"{found.round}"
            )
            return found.config
        raise InputError(
            f"--out {self.path} is not empty and holds no run to resume (no readable "
            "config.json): name another directory"
        )

    def _check_writable(self) -> None:
        """Complains early of what `claim` would trip over."""
        nearest = self.path.absolute()
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir():
            raise self._unwritable(f"{nearest} is a file")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise self._unwritable(f"no permission to write in {nearest}")

    def _unwritable(self, reason: str | None) -> InputError:
        return InputError(
            f"cannot write --out {self.path}: {reason}; name a directory that can be "
            "written"
        )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes out.

        Raises:
          InputError: if one is in there, or it cannot be written.
        """
        with locked(self.path):
            self._mine = True
            try:
                yield
            finally:
                self._mine = False

    def begin(
        self, fingerprints: Fingerprints, *, resume: bool, rounds: int
    ) -> Saved | None:
        """Checks once more, now that nobody else is in here, and claims.

        Sets damaged checkpoints aside, cleans up after a start that was killed, and
        makes ``metrics.jsonl`` what the checkpoint has seen.

        Args:
          fingerprints: of the data.
          resume: as for `check`.
          rounds: of the whole run.

        Returns:
          The checkpoint to go on from, None to begin with round 1.

        Raises:
          InputError: see `check`; and if the run is past its end.
        """
        self.check(resume=resume)
        self.refuse_other_data(fingerprints)
        found, damaged = newest_or_refuse(self.checkpoints, self._before.get("run"))
        if found is not None and found.round > rounds:
            raise InputError(
                f"--rounds is {rounds}: the run in {self.path} has completed "
                f"{found.round}"
            )
        for completed, wrong in damaged.items():
            aside = set_aside(self.checkpoints, completed)
            self.notes.append(
                f"the checkpoint of round {completed} is damaged ({wrong}): kept as "
                f"{aside.name}"
            )
        clean(self.checkpoints)
        self.claim(fingerprints, found.round if found else 0)
        if self.rewind(found.records if found else []):
            self.notes.append("metrics.jsonl was damaged: taken from the checkpoint")
        return found

    def refuse_other_data(self, fingerprints: Fingerprints) -> None:
        """Complains of other data than the run to be continued had.

        Raises:
          InputError: naming what has changed.
        """
        refuse_data(self.path, self._before.get("fingerprints", {}), fingerprints)

    def claim(
        self, fingerprints: Fingerprints | None = None, completed: int = 0
    ) -> None:
        """Makes the directory and writes ``config.json``.

        Args:
          fingerprints: of the data.
          completed: rounds, of a run that is continued.

        Raises:
          InputError: if it cannot be written.
        """
        history = list(self._before.get("changes", []))
        if self._changes:
            history.append({"after_round": completed, "options": self._changes})
        self.content = {
            "run": self._before.get("run") or secrets.token_hex(8),
            "options": self._config,
            "versions": versions(),
            "fingerprints": fingerprints or {},
            "changes": history,
        }
        self.content["digest"] = own_digest(self.content)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "config.json", _json(self.content))
        except OSError as error:
            raise self._unwritable(error.strerror) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Where files are written: a full disk is no reason for a traceback.

        Raises:
          InputError: for an OSError.
        """
        try:
            yield
        except OSError as error:
            raise InputError(
                f"cannot write in {self.path} ({error.strerror}): once that is mended, "
                "the same command with --resume goes on from the last checkpoint"
            ) from error

    def write_partition(self, content: dict[str, Any]) -> None:
        """Writes ``partition.json``, on one line: it is a table."""
        with self.writing():
            write_whole(self.path / "partition.json", json.dumps(content) + "\n")

    def append(self, record: Record) -> None:
        """Adds a round to ``metrics.jsonl``."""
        with self.writing(), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def rewind(self, records: Sequence[Record]) -> bool:
        """Makes ``metrics.jsonl`` the rounds that a checkpoint has seen.

        Later rounds, torn lines and duplicates go; lost rounds come back.

        Returns:
          Whether any of these rounds had been lost or damaged.
        """
        wanted = "".join(json.dumps(record) + "\n" for record in records).encode()
        with self.writing():
            found = self._metrics.read_bytes() if self._metrics.is_file() else b""
            write_whole(self._metrics, wanted.decode())
        return not found.startswith(wanted)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json``."""
        with self.writing():
            write_whole(self.path / "summary.json", _json(summary))

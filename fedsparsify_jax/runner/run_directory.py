"""The run directory: who may use it, and the small files in it.

config.json     the resolved options and the versions they ran with
partition.json  what the clients hold, see `partition_file`
metrics.jsonl   one JSON object a round
summary.json    written at the end
checkpoints/    see `checkpoints`
model/          the final model, see `model_files`
clients/        the clients' data, with --client-data disk, see `data.population`
"""

import json
import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.config import NOT_COMPARED, TrainConfig, option, to_json

Record = dict[str, Any]

_PACKAGES = ("fedsparsify_jax", "jax", "jaxlib", "flax", "optax", "numpy")


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


def versions() -> dict[str, str]:
    """What a run depends on, and in which version it is installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


class RunDirectory:
    """One run's files.

    Nothing is touched before `claim`, so a run that fails its checks leaves no trace.
    """

    def __init__(self, path: Path, config: TrainConfig):
        self.path = path
        self._config = to_json(config)
        self.model = path / "model"
        self.checkpoints = path / "checkpoints"
        self.clients = path / "clients"
        self._metrics = path / "metrics.jsonl"

    def check(self, *, resume: bool) -> bool:
        """Whether there is a run to continue; touches nothing.

        Raises:
          InputError: if the directory is used and not to be resumed, holds something
            that is not a run, or a run with other options.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"--out {self.path} is a file: name a directory")
        if not self._used():
            self._check_writable()
            return False
        if not resume:
            raise InputError(
                f"--out {self.path} is not empty: add --resume to continue the run in "
                "it, or name another directory"
            )
        saved = self._read_config()
        changes = [
            f"{option(field)} {saved.get(field)} -> {value}"
            for field, value in self._config.items()
            if field not in NOT_COMPARED and saved.get(field) != value
        ]
        if changes:
            raise InputError(
                f"the run in {self.path} had other options: {'; '.join(changes)}; "
                "resume with the same, or name another directory"
            )
        return True

    def _used(self) -> bool:
        """Whether more is there than a start that was killed inside its `claim`."""
        if not self.path.is_dir():
            return False
        return any(path.name != "config.json.partial" for path in self.path.iterdir())

    def _read_config(self) -> dict[str, Any]:
        path = self.path / "config.json"
        try:
            options = json.loads(path.read_text(encoding="utf-8"))["options"]
            if isinstance(options, dict):
                return options
        except (OSError, ValueError, KeyError, TypeError):
            pass
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

    def claim(self) -> None:
        """Makes the directory and writes ``config.json``.

        Raises:
          InputError: if it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            config = {"options": self._config, "versions": versions()}
            self._write_json("config.json", config)
        except OSError as error:
            raise self._unwritable(error.strerror) from error

    def _write_json(self, name: str, content: Any) -> None:
        write_whole(self.path / name, json.dumps(content, indent=2) + "\n")

    def write_partition(self, content: dict[str, Any]) -> None:
        """Writes ``partition.json``, on one line: it is a table."""
        write_whole(self.path / "partition.json", json.dumps(content) + "\n")

    def append(self, record: Record) -> None:
        """Adds a round to ``metrics.jsonl``."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def rewind(self, completed: int) -> list[Record]:
        """Cuts ``metrics.jsonl`` back to the first ``completed`` rounds; returns them.

        Raises:
          InputError: if rounds are missing.
        """
        records: list[Record] = []
        if self._metrics.exists():
            for line in self._metrics.read_bytes().splitlines()[:completed]:
                try:
                    record = dict(json.loads(line))
                except (TypeError, ValueError):
                    break  # a torn last line
                if record.get("round") != len(records) + 1:
                    break  # what follows a gap is of no use
                records.append(record)
        if len(records) < completed:
            raise InputError(
                f"{self._metrics} has {len(records)} of the {completed} rounds that "
                "the checkpoint has seen: start anew in another directory"
            )
        lines = "".join(json.dumps(record) + "\n" for record in records)
        write_whole(self._metrics, lines)
        return records

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json``."""
        self._write_json("summary.json", summary)

"""The run directory: its files, and reading and writing the small ones.

config.json     the resolved options, the versions they ran with, fingerprints of the
                data, and changes that a resumed run was allowed
partition.json  sizes and classes of the clients' examples, see `write_partition`; the
                names of natural ones and of labels, and how tables were read
metrics.jsonl   one JSON object a round
summary.json    written at the end
checkpoints/    see `checkpoint_files`
model/          the final model, see `model_files`
forgetting/     what the model was right about, with --forgetting, see `history`
past/           past models, with --fusion-every, see `history`
levels/NAME/    others that were trained with it, as that one
clients/        the clients' data, with --client-data disk, see `data.population`
.lock           while a run is going on, see `lock`
"""

import contextlib
import dataclasses
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.storage import checkpoint_files, resume
from fedsparsify_jax.runner.storage.checkpoint_files import Record
from fedsparsify_jax.runner.storage.lock import LOCK, making, unwritable
from fedsparsify_jax.runner.storage.manifest import own_digest

_PACKAGES = (
    "fedsparsify_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
)

LISTED = 200
"""Clients that ``partition.json`` lists; of a large federation the first."""


def check_name(path: Path) -> None:
    """Refuses a directory whose name this process cannot pass on as UTF-8.

    Under the locale C with Python's UTF-8 mode off, letters beyond ASCII are kept as
    single bytes, which libraries that write checkpoints do not take.

    Raises:
      InputError: with the setting that helps.
    """
    try:
        str(path.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"--out is {shown(path)}: its letters cannot be read in this locale: set "
            "PYTHONUTF8=1 or a UTF-8 locale such as LC_ALL=C.UTF-8"
        ) from None


def default_path(config: TrainConfig) -> Path:
    """Returns a new directory under ``runs``, named for the time and what is run."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{stamp}-{config.dataset}-{config.algorithm}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def write_whole(path: Path, text: str) -> None:
    """Writes a text file in one step: a kill leaves the old one or all of the new."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def versions() -> dict[str, str]:
    """Returns the installed versions of the packages that a run depends on."""
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object, for people to read, in one step."""
    write_whole(path, json.dumps(content, indent=2, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns a JSON object, None if there is no readable one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _recorded(path: Path) -> dict[str, Any] | None:
    """Returns the content of a ``config.json``, None if it is missing or damaged."""
    content = read_json(path)
    if content is None or not isinstance(content.get("options"), dict):
        return None
    digest = own_digest(content)
    return content if content.get("digest", digest) == digest else None


def random_name() -> str:
    """Returns a name for a new run, which its checkpoints will carry."""
    return secrets.token_hex(8)


def names_in(path: Path, partial: str) -> set[str]:
    """Returns names in a directory; a killed start's lock and ``partial`` are none."""
    if not path.is_dir():
        return set()
    return {entry.name for entry in path.iterdir()} - {partial, LOCK}


def obstacle(path: Path) -> str:
    """Returns the complaint if no new directory can be written; "" if one can."""
    if path.exists() and not path.is_dir():
        return f"--out {path} is a file: name a directory"
    nearest = path.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        return unwritable(path, f"{nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return unwritable(path, f"no permission to write in {nearest}")
    return ""


def read(path: Path) -> resume.Existing:
    """Reads what a start has to know of a directory; changes nothing."""
    empty = not names_in(path, "config.json.partial")
    recorded = _recorded(path / "config.json")
    run, metrics = (recorded or {}).get("run"), b""
    with contextlib.suppress(OSError):
        metrics = (path / "metrics.jsonl").read_bytes()
    return resume.Existing(
        path=path,
        checkpoints=checkpoint_files.read(path / "checkpoints", run),
        obstacle=obstacle(path) if empty else "",
        empty=empty,
        recorded=recorded,
        metrics=metrics,
        summary=read_json(path / "summary.json"),
    )


def plan(
    path: Path, config: TrainConfig, fingerprints: resume.Fingerprints | None = None
) -> resume.Plan:
    """Returns `resume.plan` for a directory as it is now."""
    return resume.plan(
        read(path), config, fingerprints, versions=versions(), name=random_name()
    )


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The files of a run."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / "model"

    def level(self, name: str) -> Path:
        return self.path / "levels" / name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def clients(self) -> Path:
        return self.path / "clients"

    def carry_out(self, plan: resume.Plan) -> None:
        """Makes the directory that of the planned run, ready for its next round.

        Raises:
          InputError: if it cannot be written.
        """
        checkpoint_files.tidy(self.checkpoints, plan.renames)
        with making(self.path):
            write_json(self.path / "config.json", plan.content)
        with self.writing():
            write_whole(self.path / "metrics.jsonl", resume.lines(plan.records))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turns an error of the file system, such as a full disk, into one line.

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

    def write_partition(
        self,
        targets: np.ndarray,
        parts: Sequence[np.ndarray],
        origin: dict[str, Any] | None = None,
    ) -> None:
        """Writes ``partition.json``, on one line: it is a table."""
        content = json.dumps(described(targets, parts) | (origin or {})) + "\n"
        with self.writing():
            write_whole(self.path / "partition.json", content)

    def append(self, record: Record) -> None:
        """Adds a round to ``metrics.jsonl``."""
        path = self.path / "metrics.jsonl"
        with self.writing(), path.open("a", encoding="utf-8") as file:
            file.write(resume.lines([record]))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json``."""
        with self.writing():
            write_json(self.path / "summary.json", summary)


def described(targets: np.ndarray, parts: Sequence[np.ndarray]) -> dict[str, Any]:
    """Returns the number of clients, and examples of the first: in all, and by class.

    Args:
      targets: ``[n]`` integer classes, or numbers, which are not counted by value.
      parts: one index array a client.

    Example:
      >>> described(np.array([0, 1, 1]), [np.array([0, 1]), np.array([2])])
      {'clients': 2, 'sizes': [2, 1], 'counts': [[1, 1], [0, 1]]}
    """
    listed = list(parts[:LISTED])
    counts = None
    if np.issubdtype(targets.dtype, np.integer) and targets.ndim == 1:
        classes = int(targets.max()) + 1
        counts = [
            np.bincount(targets[part], minlength=classes).tolist() for part in listed
        ]
    sizes = [len(part) for part in listed]
    return {"clients": len(parts), "sizes": sizes, "counts": counts}

"""The directory of a sweep: a run directory for every trial, and what sums them up.

NAME/          the run of a trial, as ``fedsparsify train`` writes it
sweep.json     the options' values and the versions of the latest start
groups/        while trials are trained, see `sweep_checkpoints`
sweep.jsonl    a JSON object a finished trial: directory, what sets it apart, summary

A trial is found by its configuration, not by its name: a sweep can be started again, or
with more values, and finished trials are taken as they are.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import NOT_COMPARED, TrainConfig, to_json
from fedsparsify_jax.runner.options.sweep_grid import Trial
from fedsparsify_jax.runner.storage.lock import LOCK, refuse_if_locked
from fedsparsify_jax.runner.storage.run_directory import (
    RunDirectory,
    versions,
    write_whole,
)

_OPTIONS, _TABLE = "sweep.json", "sweep.jsonl"


def _plain(given: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The options' values as JSON."""
    return {
        field: [str(value) if isinstance(value, Path) else value for value in axis]
        for field, axis in given.items()
    }


def default_path(given: Mapping[str, Sequence[Any]]) -> Path:
    """A directory under ``runs`` that only the same values lead to.

    >>> given = {"dataset": ["digits"], "seed": [0, 1]}
    >>> default_path(given) == default_path(given | {"seed": [0, 2]})
    False
    >>> default_path(given).name[:13]
    'sweep-digits-'
    """
    text = json.dumps(_plain(given), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    names = [name.replace("/", "-").replace(":", "-") for name in given["dataset"]]
    return Path("runs") / "-".join(["sweep", *names, digest])


def compared(options: Mapping[str, Any]) -> str:
    """The options that decide results, as text."""
    kept = {key: value for key, value in options.items() if key not in NOT_COMPARED}
    return json.dumps(kept, sort_keys=True)


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, None if there is no readable one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


class SweepDirectory:
    """One sweep's files. Nothing is touched before `claim`.

    Args:
      path: where.
      given: the options' values.
      every: all trials.

    Raises:
      InputError: if something else is there, another process is at work in it, or it
        cannot be written.
    """

    def __init__(
        self, path: Path, given: Mapping[str, Sequence[Any]], every: Sequence[Trial]
    ):
        self.path = path
        self._given, self._every = given, list(every)
        refuse_if_locked(path)
        there = [entry.name for entry in path.iterdir()] if path.is_dir() else []
        # A start that was killed inside its `claim` leaves no more than this.
        used = bool({*there} - {f"{_OPTIONS}.partial", LOCK})
        if used and _OPTIONS not in there:
            raise InputError(
                f"--out {path} is not empty and holds no sweep (no {_OPTIONS}): name "
                "another directory"
            )
        if not path.is_dir():
            RunDirectory(path, TrainConfig()).check(resume=False)
        found = self._found() if used else {}
        self._runs = {
            id(trial): found.get(compared(to_json(trial.config)), path / trial.name)
            for trial in self._every
        }
        for trial in self._every:
            self.run(trial).check(resume=True)

    def _found(self) -> dict[str, Path]:
        """The runs that are there, by what they computed."""
        runs = {}
        for config in sorted(self.path.glob("*/config.json")):
            options = (_read(config) or {}).get("options")
            if isinstance(options, dict):
                runs[compared(options)] = config.parent
        return runs

    def config(self, trial: Trial) -> TrainConfig:
        """A trial's configuration with its directory."""
        return dataclasses.replace(trial.config, out=self._runs[id(trial)])

    def run(self, trial: Trial) -> RunDirectory:
        """A trial's run directory."""
        return RunDirectory(self._runs[id(trial)], self.config(trial))

    def summary(self, trial: Trial) -> dict[str, Any] | None:
        """The summary of a finished trial, None for others."""
        return _read(self._runs[id(trial)] / "summary.json")

    def claim(self) -> None:
        """Makes the directory and writes ``sweep.json``.

        Raises:
          InputError: if it cannot be written.
        """
        content = {"options": _plain(self._given), "versions": versions()}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / _OPTIONS, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise InputError(
                f"cannot write --out {self.path}: {error.strerror}; name a directory "
                "that can be written"
            ) from error

    def write_table(self) -> None:
        """Writes ``sweep.jsonl`` anew from the finished trials."""
        rows = []
        for trial in self._every:
            summary = self.summary(trial)
            if summary is not None:
                varied = _plain({name: [value] for name, value in trial.varied.items()})
                apart = {name: axis[0] for name, axis in varied.items()}
                run = self._runs[id(trial)].name
                rows.append({"run": run, **apart, **summary})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_whole(self.path / _TABLE, text)

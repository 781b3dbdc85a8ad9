"""The directory of a sweep: a run directory for every trial, and a table of them.

NAME/          the run of a trial, as ``fedsparsify train`` writes it
sweep.json     the options' values and the versions of the latest start
groups/        while trials are trained, see `sweep_checkpoints`
sweep.jsonl    a JSON object a finished trial: directory, what sets it apart, summary

A trial is recognized by its configuration, not by its name: a sweep can be started
again, or with more values, and finished trials are taken as they are.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import NOT_COMPARED, to_json
from fedsparsify_jax.runner.options.sweep_grid import Trial
from fedsparsify_jax.runner.storage import resume, run_directory
from fedsparsify_jax.runner.storage.lock import making
from fedsparsify_jax.runner.storage.run_directory import (
    RunDirectory,
    read_json,
    write_json,
    write_whole,
)

SWEEP, _TABLE = "sweep.json", "sweep.jsonl"


def default_path(axes: Mapping[str, Sequence[Any]]) -> Path:
    """Returns a directory under ``runs`` that only the same values lead to.

    >>> axes = {"dataset": ["digits"], "seed": [0, 1]}
    >>> default_path(axes) == default_path(axes | {"seed": [0, 2]})
    False
    >>> default_path(axes).name[:13]
    'sweep-digits-'
    """
    text = json.dumps(axes, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    names = [name.replace("/", "-").replace(":", "-") for name in axes["dataset"]]
    return Path("runs") / "-".join(["sweep", *names, digest])


def compared(options: Mapping[str, Any]) -> str:
    """Returns the options that decide results, as text."""
    kept = {key: value for key, value in options.items() if key not in NOT_COMPARED}
    return json.dumps(kept, sort_keys=True)


class Existing(NamedTuple):
    """The content of a sweep's directory.

    Attributes:
      obstacle: complaint if no sweep can be written there, "" if one can.
      runs: by name all run directories, those included that trials would have.
    """

    obstacle: str
    runs: Mapping[str, resume.Existing]


class Plan(NamedTuple):
    """Directories of trials, and summaries of those that are finished; by trial."""

    runs: dict[str, Path]
    finished: dict[str, dict[str, Any]]


def read(path: Path, trials: Sequence[Trial]) -> Existing:
    """Reads what a start has to know of a sweep's directory; changes nothing."""
    names = run_directory.names_in(path, f"{SWEEP}.partial")
    obstacle = "" if names else run_directory.obstacle(path)
    if names and SWEEP not in names:
        obstacle = (
            f"--out {path} is not empty and holds no sweep (no {SWEEP}): name "
            "another directory"
        )
    runs = {trial.name for trial in trials}
    if names and not obstacle:
        runs |= {config.parent.name for config in path.glob("*/config.json")}
    return Existing(
        obstacle, {name: run_directory.read(path / name) for name in sorted(runs)}
    )


def plan(
    existing: Existing, trials: Sequence[Trial], versions: Mapping[str, str]
) -> Plan:
    """Decides which run directory a trial has, and which trials are finished.

    Raises:
      InputError: if no sweep can be written there, or a run of other options is in
        the place of a trial.
    """
    if existing.obstacle:
        raise InputError(existing.obstacle)
    by_options = {
        compared(run.recorded["options"]): run
        for run in existing.runs.values()
        if run.recorded is not None
    }
    result = Plan(runs={}, finished={})
    for trial in trials:
        options = compared(to_json(trial.config))
        run = by_options.get(options, existing.runs[trial.name])
        config = dataclasses.replace(trial.config, out=run.path, resume=True)
        resume.plan(run, config, versions=versions, name=trial.name)
        result.runs[trial.name] = run.path
        if run.summary is not None:
            result.finished[trial.name] = run.summary
    return result


class SweepDirectory(NamedTuple):
    """The files of a sweep; `runs` are those of its `Plan`."""

    path: Path
    runs: Mapping[str, Path]

    def config(self, trial: Trial) -> TrainConfig:
        """Returns a trial's configuration with its directory."""
        return dataclasses.replace(trial.config, out=self.runs[trial.name])

    def run(self, trial: Trial) -> RunDirectory:
        """Returns a trial's run directory."""
        return RunDirectory(self.runs[trial.name])

    def summary(self, trial: Trial) -> dict[str, Any] | None:
        """Returns the summary of a finished trial, None for others."""
        return read_json(self.runs[trial.name] / "summary.json")

    def write_options(self, axes: Mapping[str, Sequence[Any]]) -> None:
        """Makes the directory and writes ``sweep.json``.

        Raises:
          InputError: if it cannot be written.
        """
        content = {"options": axes, "versions": run_directory.versions()}
        with making(self.path):
            write_json(self.path / SWEEP, content)

    def write_table(self, trials: Sequence[Trial]) -> None:
        """Writes ``sweep.jsonl`` anew from the finished trials."""
        rows = []
        for trial in trials:
            summary = self.summary(trial)
            if summary is not None:
                run = self.runs[trial.name].name
                row = {"run": run, **trial.varied, **summary}
                rows.append(json.dumps(row, default=str) + "\n")
        write_whole(self.path / _TABLE, "".join(rows))

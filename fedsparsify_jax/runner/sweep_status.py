"""``fedsparsify sweep --status``: how far a sweep is, and who works on it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from fedsparsify_jax import text_table
from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.runner import sweep_plan
from fedsparsify_jax.runner.display.sweep_progress import label
from fedsparsify_jax.runner.options import config_file
from fedsparsify_jax.runner.options.sweep_config import (
    COMMAND_LINE,
    OPTIONS,
    SweepConfig,
)
from fedsparsify_jax.runner.options.sweep_grid import Trial
from fedsparsify_jax.runner.storage import claims, lock
from fedsparsify_jax.runner.storage.sweep_directory import SWEEP
from fedsparsify_jax.runner.sweep_plan import SweepPlan

STATES = ("finished", "running", "stopped", "waiting")
_LISTED = 20  # running runs


class Standing(NamedTuple):
    """The state of a run in a sweep."""

    state: str  # one of STATES
    completed: int = 0  # rounds
    owner: str = ""  # the process that trains it


def show(config: Any, console: Console) -> list[dict[str, Any]]:
    """Shows how far a sweep is; returns the summaries of its runs, empty ones included.

    Args:
      config: a `sweep_config.SweepConfig`; with ``out`` alone, the options are those
        that the sweep there was started with.
      console: where to.

    Raises:
      InputError: if there is no such sweep.
    """
    planned = sweep_plan.plan(_as_started(config), writes=False)
    path = planned.directory.path
    if not (path / SWEEP).is_file():
        raise InputError(f"--status: there is no sweep in {path} (no {SWEEP})")
    console.print(_text(planned), soft_wrap=True, markup=False)
    return [planned.finished.get(trial.name, {}) for trial in planned.trials]


def _as_started(config: Any) -> Any:
    """Returns the configuration with the options of the sweep that is there."""
    if config.seeds is not None or any(getattr(config, field) for field in OPTIONS):
        return config
    if config.out is None:
        raise InputError("--status needs --out, or the options of the sweep")
    file = Path(config.out) / SWEEP
    if not file.is_file():
        raise InputError(f"--status: there is no sweep in {config.out} (no {SWEEP})")
    words = config_file.beneath({}, str(file), COMMAND_LINE)
    parsed = {field: COMMAND_LINE[field].parse(word) for field, word in words.items()}
    return SweepConfig(**parsed | {"out": config.out, "status": True})


def _completed(run: Path) -> int:
    """Returns the rounds that a run's ``metrics.jsonl`` has, 0 if it has none."""
    try:
        lines = (run / "metrics.jsonl").read_bytes().splitlines()
        return int(json.loads(lines[-1])["round"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return 0  # or a process is writing it


def standing(planned: SweepPlan, trial: Trial, alone: str | None) -> Standing:
    """Returns how far a run is.

    Args:
      planned: the sweep.
      trial: the run's.
      alone: the process that has the whole sweep, if one has.
    """
    run, rounds = planned.directory.runs[trial.name], trial.config.rounds or 0
    if trial.name in planned.finished:
        return Standing("finished", rounds)
    completed, owner = _completed(run), lock.owner(run)
    if owner is None and completed and alone is not None:
        owner = alone
    if owner is not None:
        return Standing("running", completed, owner)
    return Standing("stopped" if completed else "waiting", completed)


def _text(planned: SweepPlan) -> str:
    """Returns the whole of what is shown."""
    path, trials = planned.directory.path, planned.trials
    at_work = claims.at_work(path)
    # A process with a share has the whole sweep for moments only.
    alone = None if at_work else lock.owner(path)
    runs = {trial.name: standing(planned, trial, alone) for trial in trials}

    # How much of it, and who.
    counts = Counter(run.state for run in runs.values())
    total = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [f"sweep of {counted(len(trials), 'run')} in {path}: {total}"]
    lines += [f"share {name}: {process}" for name, process in at_work.items()]
    if alone is not None:
        lines.append(f"one process: {alone}")

    # A line a setting, and one a run that is trained now.
    settings: dict[str, Counter[str]] = {}
    for trial in trials:
        settings.setdefault(label(trial), Counter())[runs[trial.name].state] += 1
    rows = [
        [name, *(str(states[state]) for state in STATES)]
        for name, states in settings.items()
    ]
    lines += ["", text_table.aligned(["options", *STATES], rows)]
    running = [trial for trial in trials if runs[trial.name].state == "running"]
    if running:
        rows = [
            [trial.name, f"{run.completed}/{trial.config.rounds}", run.owner]
            for trial in running[:_LISTED]
            for run in [runs[trial.name]]
        ]
        lines += ["", text_table.aligned(["running", "round", "by"], rows, "<><")]
    if len(running) > _LISTED:
        lines.append(f"and {len(running) - _LISTED} more")
    return "\n".join(lines)

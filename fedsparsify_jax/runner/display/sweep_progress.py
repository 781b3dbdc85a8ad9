"""Progress and results of a sweep: the grid while it runs, the table at its end."""

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fedsparsify_jax import text_table
from fedsparsify_jax.errors import counted
from fedsparsify_jax.runner.display.progress import duration, measured
from fedsparsify_jax.runner.options.rules import flag
from fedsparsify_jax.runner.options.sweep_grid import Trial

Record = dict[str, Any]


def label(trial: Trial) -> str:
    """Returns the options that distinguish a trial, less its seed, for people."""
    setting = trial.setting.items()
    return " ".join(f"{flag(field)} {value}" for field, value in setting) or "all"


class Grid:
    """The latest record of every trial.

    Args:
      trials: all of them.
      finished: the number of a trial to the summary it has already.
    """

    def __init__(self, trials: Sequence[Trial], finished: dict[int, Record]):
        self.trials = list(trials)
        self._latest: dict[int, Record] = dict(finished)
        self._finished = set(finished)
        self._pace = 0.0

    def update(self, records: dict[int, Record]) -> None:
        """Takes the latest records of some trials."""
        self._latest.update(records)
        self._pace = next(iter(records.values()))["seconds"]

    def finish(self, numbers: Sequence[int]) -> None:
        """Marks some trials as finished."""
        self._finished.update(numbers)

    def finish_others(self, summaries: dict[int, Record]) -> None:
        """Takes trials that were finished elsewhere, with their summaries."""
        self._latest |= summaries
        self._finished.update(summaries)

    def status(self, number: int) -> str:
        """Returns a trial in a few letters."""
        record = self._latest.get(number)
        if record is None:
            return "waiting"
        value = measured(record, digits=1)[1]
        if number in self._finished:
            return value
        return f"{record['round']}/{self.trials[number].config.rounds}  {value}"

    def headline(self) -> str:
        """Returns how much is finished, and the time left at the latest pace."""
        rounds = sum(
            (trial.config.rounds or 0) - self._latest.get(number, {}).get("round", 0)
            for number, trial in enumerate(self.trials)
            if number not in self._finished
        )
        counts = f"{len(self._finished)} of {len(self.trials)} runs finished"
        return f"{counts}, left {duration(rounds * self._pace)}"

    def table(self) -> Table:
        """Returns the grid, settings down and seeds across."""
        rows: dict[str, dict[int, str]] = {}
        for number, trial in enumerate(self.trials):
            row = rows.setdefault(label(trial), {})
            row[trial.config.seed] = self.status(number)
        seeds = sorted({seed for row in rows.values() for seed in row})
        table = Table(title=self.headline())
        table.add_column("options")
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right")
        for name, row in rows.items():
            table.add_row(name, *(row.get(seed, "") for seed in seeds))
        return table


@contextlib.contextmanager
def sweep_reporter(
    console: Console, grid: Grid
) -> Iterator[Callable[[Sequence[int]], None]]:
    """Yields what shows that some trials have changed.

    On a terminal that is the grid itself, anywhere else a line.
    """
    if console.is_terminal:
        with Live(grid.table(), console=console, auto_refresh=False) as live:
            yield lambda numbers: live.update(grid.table(), refresh=True)
        return

    def line(numbers: Sequence[int]) -> None:
        states = [grid.status(number) for number in numbers]
        shown = ", ".join(states[:8]) + (", ..." if len(states) > 8 else "")
        console.print(f"{grid.headline()}: {shown}", soft_wrap=True)

    yield line


def spread(values: Sequence[float | None], scale: float, digits: int) -> str:
    """Returns mean and sample standard deviation, of a single value only itself.

    >>> spread([0.5, 0.75], 100, 2), spread([0.5], 100, 2), spread([None], 100, 2)
    ('62.50 +- 17.68', '50.00', 'n/a')
    """
    if any(value is None for value in values):
        return "n/a"
    numbers = [scale * value for value in values if value is not None]
    text = f"{statistics.fmean(numbers):.{digits}f}"
    if len(numbers) > 1:
        text += f" +- {statistics.stdev(numbers):.{digits}f}"
    return text


def results(trials: Sequence[Trial], summaries: Sequence[Record]) -> str:
    """Returns the closing table: a line a setting, means and spreads over its seeds.

    Args:
      trials: all of them.
      summaries: theirs.
    """
    settings: dict[str, list[Record]] = {}
    for trial, summary in zip(trials, summaries, strict=True):
        settings.setdefault(label(trial), []).append(summary)
    tables: dict[tuple[str, ...], list[list[str]]] = {}
    for name, runs in settings.items():
        metric = measured(runs[0])[0]
        in_percent = metric == "accuracy"
        scale, digits = (100, 2) if in_percent else (1, 4)
        values = [run[f"test_{metric}"] for run in runs]
        moved = [run["bytes_up"] + run["bytes_down"] for run in runs]
        row = {
            "options": name,
            "runs": str(len(runs)),
            metric + " %" * in_percent: spread(values, scale, digits),
            "sparsity %": spread([run["sparsity"] for run in runs], 100, 2),
            "bytes moved, MB": spread(moved, 1e-6, 2),
        }
        tables.setdefault(tuple(row), []).append(list(row.values()))
    # A table of accuracies, and one of mean absolute errors.
    return "\n".join(text_table.aligned(head, rows) for head, rows in tables.items())


def warnings(trials: Sequence[Trial], summaries: Sequence[Record]) -> list[str]:
    """Returns a line for each reason not to go on with a run: which runs have it.

    Args:
      trials: all of them.
      summaries: theirs; ``warning`` is that of `summary.doubt`.
    """
    runs: dict[str, list[str]] = {}
    for trial, summary in zip(trials, summaries, strict=True):
        if reason := summary.get("warning"):
            runs.setdefault(reason, []).append(trial.name)
    return [
        f"warning: {counted(len(names), 'run')} of {len(trials)} ({', '.join(names)}): "
        f"{reason}"
        for reason, names in runs.items()
    ]

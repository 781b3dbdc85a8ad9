"""What a person sees of a sweep: the grid while it goes on, the table at its end."""

import statistics
from collections.abc import Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fedsparsify_jax.runner.display.progress import duration, measured
from fedsparsify_jax.runner.options.config import option
from fedsparsify_jax.runner.options.sweep_grid import Cell

Record = dict[str, Any]


def label(cell: Cell) -> str:
    """What sets a cell apart besides its seed, for people."""
    setting = cell.setting.items()
    return " ".join(f"{option(field)} {value}" for field, value in setting) or "all"


class Grid:
    """How far every cell is.

    Args:
      every: all cells.
      finished: the number of a cell to the summary it has already.
    """

    def __init__(self, every: Sequence[Cell], finished: dict[int, Record]):
        self.every = list(every)
        self._latest: dict[int, Record] = dict(finished)
        self._done = set(finished)
        self._pace = 0.0

    def played(self, records: dict[int, Record]) -> None:
        """Takes the latest records of some cells."""
        self._latest.update(records)
        self._pace = next(iter(records.values()))["seconds"]

    def finished(self, numbers: Sequence[int]) -> None:
        """Some cells are through."""
        self._done.update(numbers)

    @property
    def left(self) -> str:
        """The time left, at the latest pace."""
        rounds = 0
        for number, cell in enumerate(self.every):
            if number not in self._done:
                total = cell.config.rounds or 0
                rounds += total - self._latest.get(number, {}).get("round", 0)
        return duration(rounds * self._pace)

    def status(self, number: int) -> str:
        """A cell in a few letters."""
        record = self._latest.get(number)
        if record is None:
            return "waiting"
        value = measured(record, digits=1)[1]
        if number in self._done:
            return value
        return f"{record['round']}/{self.every[number].config.rounds}  {value}"

    def headline(self) -> str:
        """How much of the sweep is through."""
        return f"{len(self._done)} of {len(self.every)} runs finished"


class SweepReporter(Protocol):
    """Told of all progress; a context manager around the sweep."""

    def __enter__(self) -> "SweepReporter": ...

    def __exit__(self, *ended: Any) -> None: ...

    def changed(self, numbers: Sequence[int]) -> None:
        """Some cells have got further."""


class PlainSweep:
    """One line for every call of a program, for logs and pipes."""

    def __init__(self, console: Console, grid: Grid):
        self._console, self._grid = console, grid

    def __enter__(self) -> "PlainSweep":
        return self

    def __exit__(self, *ended: Any) -> None:
        pass

    def changed(self, numbers: Sequence[int]) -> None:
        """Prints a line."""
        states = [self._grid.status(number) for number in numbers]
        shown = ", ".join(states[:8]) + (", ..." if len(states) > 8 else "")
        self._console.print(
            f"{self._grid.headline()}, left {self._grid.left}: {shown}",
            soft_wrap=True,
        )


class LiveSweep:
    """The grid itself, settings down and seeds across, for terminals."""

    def __init__(self, console: Console, grid: Grid):
        self._grid = grid
        self._live = Live(self._table(), console=console, auto_refresh=False)

    def __enter__(self) -> "LiveSweep":
        self._live.start()
        return self

    def __exit__(self, *ended: Any) -> None:
        self._live.stop()

    def changed(self, numbers: Sequence[int]) -> None:
        """Shows the grid anew."""
        self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        rows: dict[str, dict[int, str]] = {}
        for number, cell in enumerate(self._grid.every):
            row = rows.setdefault(label(cell), {})
            row[cell.config.seed] = self._grid.status(number)
        seeds = sorted({seed for row in rows.values() for seed in row})
        table = Table(title=f"{self._grid.headline()}, left {self._grid.left}")
        table.add_column("options")
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right")
        for name, row in rows.items():
            table.add_row(name, *(row.get(seed, "") for seed in seeds))
        return table


def sweep_reporter(console: Console, grid: Grid) -> SweepReporter:
    """The live grid on a terminal, plain lines anywhere else."""
    return (
        LiveSweep(console, grid) if console.is_terminal else PlainSweep(console, grid)
    )


def spread(values: Sequence[float | None], scale: float, digits: int) -> str:
    """Mean and sample standard deviation; without the latter for a single value.

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


def results(every: Sequence[Cell], summaries: Sequence[Record]) -> str:
    """The closing table: a line a setting, mean +- standard deviation over its seeds.

    Args:
      every: all cells.
      summaries: theirs.
    """
    settings: dict[str, list[Record]] = {}
    for cell, summary in zip(every, summaries, strict=True):
        settings.setdefault(label(cell), []).append(summary)
    rows = []
    for name, runs in settings.items():
        metric = measured(runs[0])[0]
        moved = [run["bytes_up"] + run["bytes_down"] for run in runs]
        percent = metric == "accuracy"
        values = [run[f"test_{metric}"] for run in runs]
        value = spread(values, 100 if percent else 1, 2 if percent else 4)
        rows.append(
            {
                "options": name,
                "runs": str(len(runs)),
                metric + (" %" if percent else ""): value,
                "sparsity %": spread([run["sparsity"] for run in runs], 100, 2),
                "bytes moved, MB": spread(moved, 1e-6, 2),
            }
        )
    lines = []
    for heads in dict.fromkeys(tuple(row) for row in rows):  # accuracy, or mae
        alike = [row for row in rows if tuple(row) == heads]
        width = {head: max(len(head), *(len(r[head]) for r in alike)) for head in heads}
        for row in [dict(zip(heads, heads, strict=True)), *alike]:
            first, *others = (
                f"{row[head]:<{width[head]}}"
                if head == "options"
                else f"{row[head]:>{width[head]}}"
                for head in heads
            )
            lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)

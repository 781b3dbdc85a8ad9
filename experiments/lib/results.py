"""A table's committed lines, looked up by row and by point of its axes."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.lib.collecting import Line, read_lines
from experiments.lib.panels import Panel, panels
from experiments.lib.stats import Difference, paired
from experiments.lib.table import Table, identity
from fedsparsify_jax.runner.options.registry import takes

RESULTS = Path(__file__).resolve().parents[1] / "results"

MEASURES = {"last_10": "mean of the last ten rounds", "final": "last round"}
MEASURES["best"] = "best round"

Measure = str | Callable[[Line], float]


def path_of(name: str, preset: str, root: Path = RESULTS) -> Path:
    """The file of a table's lines."""
    return root / f"{name}-{preset}.jsonl"


class Results:
    """What is known of a table; cells that are not finished are just missing.

    Args:
      table: the table.
      preset: its size.
      root: the directory of all results.
    """

    def __init__(self, table: Table, preset: str, root: Path = RESULTS):
        self.table, self.preset = table, preset
        names = {row.of for row in table.rows if row.of is not None} | {table.name}
        self._lines: dict[str, Line] = {}
        for name in sorted(names, key=lambda name: name == table.name):
            self._lines |= read_lines(path_of(name, preset, root))
        self._found = {
            row.key: [
                (point, self._lines.get(identity(point)))
                for point in table.points(row, preset)
            ]
            for row in table.chosen(preset)
        }

    @property
    def panels(self) -> list[Panel]:
        """The federations that are shown side by side."""
        return panels(self.table, self.preset)

    @property
    def rows(self) -> list[str]:
        """The rows' keys."""
        return list(self._found)

    @property
    def metric(self) -> str:
        """``accuracy``, or ``mae`` for ages."""
        return self.table.metric

    @property
    def scale(self) -> float:
        """Accuracy is shown in percent, years as they are."""
        return 100.0 if self.metric == "accuracy" else 1.0

    @property
    def lines(self) -> list[Line]:
        """All lines that the table uses, each once."""
        every = [line for cells in self._found.values() for _, line in cells if line]
        return list({id(line): line for line in every}.values())

    @property
    def known(self) -> set[str]:
        """Identities of the cells that there are."""
        return set(self._lines)

    def label(self, row: str) -> str:
        """A row's name for readers."""
        return self.table.row(row).label

    def axis(self, field: str) -> tuple[Any, ...]:
        """The values of an axis."""
        return self.table.axis(field, self.preset)

    def dense(self, row: str) -> bool:
        """Whether a row's method has no sparsity to set."""
        return not takes(self.table.row(row).options["algorithm"], "final_sparsity")

    def cells(self, row: str, **point: Any) -> dict[int, Line]:
        """A row's finished cells at a point of the axes, by seed."""
        found: dict[int, Line] = {}
        for options, line in self._found.get(row, ()):
            if line and all(options.get(field) == v for field, v in point.items()):
                found.setdefault(options["seed"], line)
        return found

    def values(self, row: str, measure: Measure, **point: Any) -> dict[int, float]:
        """A measure of those cells, by seed; a run that diverged has none."""
        read = measure if callable(measure) else lambda line: line[measure]
        values = {s: read(line) for s, line in self.cells(row, **point).items()}
        return {seed: value for seed, value in values.items() if value is not None}

    def mean(self, row: str, measure: Measure, **point: Any) -> float | None:
        """The mean over seeds, None if there is none."""
        values = self.values(row, measure, **point)
        return statistics.fmean(values.values()) if values else None

    def difference(
        self, row: str, measure: Measure, of: str | None = None, **point: Any
    ) -> Difference | None:
        """A row against another one, the reference by default, seed by seed."""
        other = self.table.reference if of is None else of
        values = self.values(row, measure, **point)
        return paired(values, self.values(other, measure, **point))

    def curve(self, row: str, name: str, **point: Any) -> list[float]:
        """A curve's mean over seeds, at its own rounds."""
        curves = [c["curves"].get(name, []) for c in self.cells(row, **point).values()]
        rounds = zip(*(c for c in curves if c), strict=False)
        return [
            statistics.fmean(values) if None not in values else float("nan")
            for values in rounds
        ]

    def missing(self, row: str) -> int:
        """How many of a row's cells are not there."""
        found = {identity(point): line for point, line in self._found.get(row, ())}
        return sum(line is None for line in found.values())


def rounds_of(line: Line, thinned: bool = True) -> list[int]:
    """The rounds that a line's curves are at."""
    total = len(line["curves"][line["metric"]])
    if not thinned:
        return list(range(1, total + 1))
    every = line["curves"]["every"]
    return [t for t in range(1, total + 1) if t % every == 0 or t == total]

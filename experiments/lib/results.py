"""A table's committed lines, looked up by row and by point of its axes."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.lib.collecting import Line, read_lines
from experiments.lib.panels import Panel, panels
from experiments.lib.table import Table, identity
from fedsparsify_jax.report.results import (
    Difference,
    Repetitions,
    Spread,
    paired,
    spread,
)
from fedsparsify_jax.runner.options.registry import takes

RESULTS = Path(__file__).resolve().parents[1] / "results"
MEASURES = {
    "last_5": "mean of the last five rounds",
    "final": "last round",
    "best": "best round",
}
WINDOW = 10
"""Rounds in the moving mean of a curve."""

Measure = str | Callable[[Line], float]


def path_of(name: str, preset: str, root: Path = RESULTS) -> Path:
    """Returns the file of a table's lines."""
    return root / f"{name}-{preset}.jsonl"


def study_lines(name: str, preset: str, root: Path = RESULTS) -> list[Line]:
    """Returns the lines of a study, none if it was not run."""
    file = path_of(name, preset, root)
    if not file.exists():
        return []
    return [json.loads(row) for row in file.read_text(encoding="utf-8").splitlines()]


def saving(line: Line) -> float:
    """Returns a dense run's bytes by those of this run, by the authors' formula."""
    return line["bytes_dense"] / line["bytes"]


def saving_with_masks(line: Line) -> float:
    """Returns the same when the masks are sent too, a bit a weight."""
    return line["bytes_dense"] / line["bytes_with_masks"]


def achieved(line: Line) -> float:
    """Returns the exact sparsity of the final model."""
    return 1 - line["kept"] / line["parameters"]


def of_attack(
    name: str, measure: str = "auc", fpr: str | None = None
) -> Callable[[Line], float]:
    """Returns a measure of tables: the estimate of one attack.

    Args:
      name: of the attack.
      measure: ``"auc"``, ``"advantage"`` or ``"tpr"``.
      fpr: of a TPR, as ``audit.json`` spells it.

    Example:
      >>> line = {"audit": {"loss": {"tpr": {"0.01": {"estimate": 0.04}}}}}
      >>> of_attack("loss", "tpr", "0.01")(line), of_attack("loss")({})
      (0.04, nan)
    """

    def read(line: Line) -> float:
        attack = line.get("audit", {}).get(name)
        if attack is None:
            return math.nan
        interval = attack[measure] if fpr is None else attack[measure][fpr]
        return math.nan if interval is None else interval["estimate"]

    return read


def rounds_of(line: Line) -> pd.DataFrame:
    """Returns a line's curves by round; NaN where a curve has no point."""
    curves, name = line["curves"], line["metric"]
    rounds = range(1, len(curves[name]) + 1)
    table = pd.DataFrame({f"test_{name}": curves[name]}, index=rounds, dtype=float)
    table["round"] = table.index.astype(float)
    some = [t for t in rounds if t % curves["every"] == 0 or t == rounds[-1]]
    table["sparsity"] = pd.Series(curves["sparsity"], some, float)
    table["moved_so_far"] = pd.Series(curves["bytes"], some, float)
    return table


def last_five(line: Line) -> float:
    """Returns the mean of a line's last five evaluations."""
    column = [v for v in line["curves"][line["metric"]] if v is not None]
    return float(np.mean(column[-5:]))


def _smooth(line: Line) -> pd.DataFrame:
    """Returns the curves with a moving mean in place of the metric."""
    table, name = rounds_of(line), f"test_{line['metric']}"
    means = table[name].rolling(WINDOW, min_periods=1).mean()
    return table.assign(**{name: means})


class Results:
    """The results of a table; cells that are not finished are missing.

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
            for key, line in read_lines(path_of(name, preset, root)).items():
                self._lines[key] = {"last_5": last_five(line)} | line
        self._cells = {
            row.key: [
                (point, self._lines.get(identity(point)))
                for point in table.points(row, preset)
            ]
            for row in table.chosen(preset)
        }

    @property
    def panels(self) -> list[Panel]:
        """Returns the federations that are shown side by side."""
        return panels(self.table, self.preset)

    @property
    def rows(self) -> list[str]:
        """Returns the rows' keys."""
        return list(self._cells)

    @property
    def metric(self) -> str:
        """Returns ``accuracy``, or ``mae`` for ages."""
        return self.table.metric

    @property
    def scale(self) -> float:
        """Returns 100 for accuracy, shown in percent, and 1 for years."""
        return 100.0 if self.metric == "accuracy" else 1.0

    @property
    def lines(self) -> list[Line]:
        """Returns all lines that the table uses, each once."""
        lines = [line for cells in self._cells.values() for _, line in cells if line]
        return list({id(line): line for line in lines}.values())

    @property
    def identities(self) -> set[str]:
        """Returns the identities of the finished cells."""
        return set(self._lines)

    def label(self, row: str) -> str:
        """Returns a row's name for readers."""
        return self.table.row(row).label

    def axis(self, field: str) -> tuple[Any, ...]:
        """Returns the values of an axis."""
        return self.table.axis(field, self.preset)

    def dense(self, row: str) -> bool:
        """Returns whether a row's method has no sparsity to set."""
        return not takes(self.table.row(row).options["algorithm"], "final_sparsity")

    def cells(self, row: str, **point: Any) -> dict[int, Line]:
        """Returns a row's finished cells at a point of the axes, by seed."""
        cells: dict[int, Line] = {}
        for options, line in self._cells.get(row, ()):
            if line and all(options.get(field) == v for field, v in point.items()):
                cells.setdefault(options["seed"], line)
        return cells

    def values(self, row: str, measure: Measure, **point: Any) -> pd.Series:
        """Returns a measure of those cells, by seed; a run that diverged has none."""
        read = measure if callable(measure) else lambda line: line[measure]
        cells = self.cells(row, **point)
        values = {seed: read(line) for seed, line in cells.items()}
        return pd.Series(values, dtype=float).dropna()

    def spread(self, row: str, measure: Measure, **point: Any) -> Spread | None:
        """Returns mean and deviation over seeds, None if there is no cell."""
        return spread(self.values(row, measure, **point))

    def difference(
        self, row: str, measure: Measure, of: str | None = None, **point: Any
    ) -> Difference | None:
        """Returns a row minus another one, the reference by default, seed by seed."""
        others = self.values(of or self.table.reference, measure, **point)
        return paired(self.values(row, measure, **point), others)

    def repetitions(self, row: str, **point: Any) -> Repetitions:
        """Returns those cells for `report.lines`, the metric as moving means."""
        lines = list(self.cells(row, **point).values())
        numbers = ("final", "last_5", "best", "sparsity", "bytes")
        figures = pd.DataFrame([{n: line[n] for n in numbers} for line in lines])
        return Repetitions(figures, [_smooth(line) for line in lines])

    def missing(self, row: str) -> int:
        """Returns the number of a row's cells that are not finished."""
        lines = {identity(point): line for point, line in self._cells.get(row, ())}
        return sum(line is None for line in lines.values())

"""Lines of charts from results: over rounds, against one another, over sparsities."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import pandas as pd

from fedsparsify_jax.report.charts import Series, thinned
from fedsparsify_jax.report.results import Repetitions

POINTS = 300
"""Points of a line at most."""


def measure(metric: str) -> tuple[str, str]:
    """Returns the kind of a metric's axis, and its name.

    >>> measure("mae")
    ('number', 'mean absolute error')
    """
    if metric == "accuracy":
        return "percent", "accuracy"
    return "number", "mean absolute error"


def over_rounds(
    results: Repetitions,
    column: str,
    label: str,
    tone: int,
    *,
    at_most: int = POINTS,
    **style: Any,
) -> list[Series]:
    """Returns a column's mean over rounds with its range; no line if it has no point.

    Args:
      results: of a setting.
      column: of their tables of rounds.
      label: of the line.
      tone: of the line.
      at_most: points.
      **style: see `charts.Series`.
    """
    curve = results.curve(column)
    points = list(curve["mean"].items())
    spread = list(curve[["low", "high"]].itertuples(index=False, name=None))
    spread = spread if len(results.rounds) > 1 else []
    line = Series(label, tone, points, spread, **style)
    return [thinned(line, at_most)] if points else []


def against(
    results: Repetitions, x: str, y: str, label: str, tone: int, at_most: int = POINTS
) -> list[Series]:
    """Returns the line of one column against another; no line if it has no point."""
    points = results.path(x, y)
    return [thinned(Series(label, tone, points), at_most)] if points else []


def trade_off(
    settings: Iterable[Repetitions], x: str, y: str, label: str, tone: int
) -> list[Series]:
    """Returns a line with a dot a setting, and its standard deviation as a bar.

    Args:
      settings: of one label.
      x: a figure, such as ``sparsity``.
      y: another one.
      label: of the line.
      tone: of the line.

    Returns:
      No line if no setting has both figures. A single setting that never prunes is the
      horizontal line that others are compared with, where `x` is the sparsity.
    """
    pairs = [(results.spread(x), results.spread(y)) for results in settings]
    rows = [
        (across.mean, up.mean, up.deviation or 0.0)
        for across, up in pairs
        if across and up
    ]
    if not rows:
        return []
    rows.sort()
    dense = len(rows) == 1 and x == "sparsity" and rows[0][0] < 0.01
    points = [(a, b) for a, b, _ in rows]
    spread = [(b - d, b + d) for _, b, d in rows]
    return [Series(label, tone, points, spread, marks=not dense, level=dense)]


def comparable(lines: list[Series]) -> list[Series]:
    """Returns lines as dots where all are horizontal, so that x has a range."""
    if all(line.level for line in lines):
        return [dataclasses.replace(line, level=False) for line in lines]
    return lines


def strips(layers: pd.DataFrame) -> dict[str, list[tuple[float, float]]]:
    """Returns the points of a heat map's rows: a row a column, over rounds."""
    points = {name: list(layers[name].dropna().items()) for name in layers}
    thin = {n: thinned(Series("", 0, p), 120).points for n, p in points.items() if p}
    return {name: list(points) for name, points in thin.items()}

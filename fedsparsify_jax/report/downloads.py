"""The numbers inside a page: what its tips show, and what can be saved from it."""

from collections.abc import Sequence
from typing import Any

from fedsparsify_jax.report.charts import Chart, Figure, Series
from fedsparsify_jax.report.drawing import ROW, Drawing
from fedsparsify_jax.report.reading import Run, number
from fedsparsify_jax.report.tables import all_bytes, best, final, late, saving, sparsity

ROUNDS = 4000
"""Lines of all runs that a page carries; beyond, it carries a line a run."""


def _short(value: float) -> float | int:
    """As many digits as a tip shows."""
    short = float(f"{value:.{4 if abs(value) < 1 else 5}g}")
    return int(short) if short == int(short) else short


def _series(series: Series | tuple[str, Any], xs: Sequence[float]) -> dict[str, Any]:
    if isinstance(series, Series):
        found: dict[str, Any] = {"label": series.label, "tone": series.tone}
        points, level = series.points, series.level
    else:
        found, level = {"label": series[0], "tone": None}, False
        points = series[1]
    own = [a for a, _ in points]
    if own != list(xs):
        found["x"] = [_short(a) for a in own]
    if level:
        found["level"] = True
    return found | {"y": [_short(b) for _, b in points]}


def chart_data(figure: Figure, drawing: Drawing) -> dict[str, Any]:
    """A figure's numbers and where they are in its drawing, as JSON values."""
    rows: Sequence[Any]
    if isinstance(figure, Chart):
        rows, kinds = figure.series, (figure.x_kind, figure.y_kind)
        first = rows[0].points
    else:
        rows, kinds = figure.rows, ("count", "percent")
        first = rows[0][1]
    xs = [a for a, _ in first]
    x = drawing.x
    found = {
        "label": figure.x_label,
        "kinds": kinds,
        "scale": [_short(v) for v in (x.low, x.high, x.start, x.stop)],
        "depth": round(drawing.y.start / drawing.height if drawing.y else 1.0, 3),
        "xs": [_short(a) for a in xs],
        "series": [_series(row, xs) for row in rows],
    }
    if drawing.y is None:
        found["row"] = ROW
        found["depth"] = round((4 + ROW * len(rows)) / drawing.height, 3)
    return found


def _plain(value: Any) -> Any:
    known = isinstance(value, (str, bool)) or number(value) is not None
    return value if known else repr(value)


def run_table(runs: Sequence[Run]) -> dict[str, Any]:
    """A row a run: its options where they are set, and its figures."""
    fields = list(
        dict.fromkeys(
            field
            for run in runs
            for field, value in run.options.items()
            if value is not None
        )
    )
    figures = {
        "finished": lambda run: run.finished,
        "rounds_done": lambda run: run.records[-1]["round"] if run.records else 0,
        "final": final,
        "last_10_mean": late,
        "best": best,
        "achieved_sparsity": sparsity,
        "bytes": all_bytes,
        "saving": saving,
    }
    rows = []
    for run in runs:
        said = [run.options.get(field) for field in fields]
        options = [None if value is None else _plain(value) for value in said]
        measured = [number(value) for value in (f(run) for f in figures.values())]
        measured[0] = run.finished
        rows.append([run.name, *options, *measured])
    return {"columns": ["run", *fields, *figures], "rows": rows}


def round_table(runs: Sequence[Run]) -> dict[str, Any] | None:
    """A row a round of each run, None if there are too many of them."""
    if not 0 < sum(len(run.records) for run in runs) <= ROUNDS:
        return None
    fields = list(
        dict.fromkeys(
            field
            for run in runs
            for record in run.records
            for field in record
            if field != "kept"
        )
    )
    rows = [
        [run.name, *(record.get(field) for field in fields)]
        for run in runs
        for record in run.records
    ]
    return {"columns": ["run", *fields], "rows": rows}

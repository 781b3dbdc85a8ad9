"""Numbers inside a page: values of its tips, and tables to save from it."""

from collections.abc import Iterable, Sequence
from typing import Any

from fedsparsify_jax.report.charts import Chart, Figure, Points
from fedsparsify_jax.report.drawing import ROW, Drawing
from fedsparsify_jax.report.reading import Run, number

ROUNDS = 4000
"""Lines of all runs that a page carries; beyond, it carries a line a run."""
_FIGURES = {
    "final": "final",
    "last_10_mean": "last_10",
    "best": "best",
    "achieved_sparsity": "sparsity",
    "bytes": "bytes",
    "saving": "saving",
}


def _short(value: float) -> float | int:
    """Returns as many digits as a tip shows."""
    short = float(f"{value:.{4 if abs(value) < 1 else 5}g}")
    return int(short) if short == int(short) else short


def _series(
    label: str, tone: int | None, points: Points, xs: Sequence[float], level: bool
) -> dict[str, Any]:
    series: dict[str, Any] = {"label": label, "tone": tone}
    if [a for a, _ in points] != list(xs):
        series["x"] = [_short(a) for a, _ in points]
    if level:
        series["level"] = True
    return series | {"y": [_short(b) for _, b in points]}


def chart_data(figure: Figure, drawing: Drawing) -> dict[str, Any]:
    """Returns a figure's numbers and their places in its drawing, as JSON values."""
    rows: list[tuple[str, int | None, Points, bool]]
    if isinstance(figure, Chart):
        rows = [(s.label, s.tone, s.points, s.level) for s in figure.series]
        kinds = (figure.x_kind, figure.y_kind)
    else:
        rows = [(label, None, points, False) for label, points in figure.rows]
        kinds = ("count", "percent")
    xs = [a for a, _ in rows[0][2]]
    x, depth = drawing.x, 4 + ROW * len(rows)
    content = {
        "label": figure.x_label,
        "kinds": kinds,
        "scale": [_short(v) for v in (x.low, x.high, x.start, x.stop)],
        "depth": round((drawing.y.start if drawing.y else depth) / drawing.height, 3),
        "xs": [_short(a) for a in xs],
        "series": [_series(*row[:3], xs, row[3]) for row in rows],
    }
    return content if drawing.y else content | {"row": ROW}


def _plain(value: Any) -> Any:
    simple = value is None or isinstance(value, (str, bool))
    return value if simple or number(value) is not None else repr(value)


def _fields(rows: Iterable[dict[str, Any]]) -> list[str]:
    """Returns the keys of all rows, in order of appearance."""
    return list(dict.fromkeys(field for row in rows for field in row))


def run_table(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns a row a run: its options where they are set, and its figures."""
    options = [{k: v for k, v in r.options.items() if v is not None} for r in runs]
    fields = _fields(options)
    rows = []
    for run, values in zip(runs, options, strict=True):
        rounds = run.records[-1]["round"] if run.records else 0
        figures = [number(run.figures.get(name)) for name in _FIGURES.values()]
        plain = [_plain(values.get(field)) for field in fields]
        rows.append([run.name, *plain, run.finished, rounds, *figures])
    return {
        "columns": ["run", *fields, "finished", "rounds_done", *_FIGURES],
        "rows": rows,
    }


def round_table(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Returns a row a round of each run, None if there are too many of them."""
    if not 0 < sum(len(run.records) for run in runs) <= ROUNDS:
        return None
    fields = _fields(record for run in runs for record in run.records)
    fields = [field for field in fields if field != "kept"]
    rows = [
        [run.name, *(record.get(field) for field in fields)]
        for run in runs
        for record in run.records
    ]
    return {"columns": ["run", *fields], "rows": rows}

"""A report as one HTML page that needs nothing else: no network, no server.

The template escapes all text of files, and the page's own policy lets no script run but
the one that it was written with.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from importlib import resources
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from fedsparsify_jax.report.charts import TONES, Chart, Figure, Series
from fedsparsify_jax.report.colours import DARK, LIGHT
from fedsparsify_jax.report.content import Report
from fedsparsify_jax.report.downloads import chart_data, round_table, run_table
from fedsparsify_jax.report.drawing import colour, dashes
from fedsparsify_jax.report.svg import classes, draw, inline

MARK = '<meta name="generator" content="fedsparsify report">'
"""In the head of every page, so that a later report knows what it may replace."""


class _Plot(NamedTuple):
    """A figure in the page."""

    name: str  # of its numbers in the page's data
    svg: Markup


def _file(name: str) -> str:
    file = resources.files("fedsparsify_jax.report").joinpath(name)
    return file.read_text(encoding="utf-8")


def _sheet() -> str:
    """Returns the page's style sheet, with the colours of both modes."""
    root = [
        ":root{"
        + "".join(f"--{name}:{value};" for name, value in colours.items())
        + "}"
        for colours in ({"ground": "#f6f8fa"} | LIGHT, {"ground": "#0f1317"} | DARK)
    ]
    modes = f"{root[0]}@media screen and (prefers-color-scheme:dark){{{root[1]}}}"
    series = [f"s{n}" for n in range(TONES)]
    names = ["paper", "ink", "quiet", "grid", "axis", *series]
    return modes + _file("page.css") + classes([*names, *(f"h{n}" for n in range(9))])


def _in_script(content: Any) -> str:
    """Returns JSON that cannot end its script element early."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _described(figure: Figure) -> str:
    """Returns a figure's description for screen readers."""
    if not isinstance(figure, Chart):
        return f"{figure.title}: heat map, {len(figure.rows)} rows over rounds"
    names = ", ".join(series.label for series in figure.series)
    return f"{figure.title}: {figure.y_label} against {figure.x_label}; lines: {names}"


def _lines_of(figures: Iterable[Figure]) -> list[Series]:
    """Returns the first line of every tone, for a legend."""
    lines: dict[int, Series] = {}
    for figure in figures:
        for series in figure.series if isinstance(figure, Chart) else ():
            lines.setdefault(series.tone, series)
    return [lines[tone] for tone in sorted(lines)]


def page(report: Report) -> str:
    """Returns the whole HTML document."""
    plots, charts = {}, {}
    for n, figure in enumerate(report.figures):
        drawing = draw(figure)
        plots[id(figure)] = _Plot(f"c{n}", Markup(inline(drawing, _described(figure))))
        charts[f"c{n}"] = chart_data(figure, drawing)
    tables = {"runs": run_table(report.runs), "rounds": round_table(report.runs)}
    tables = {name: table for name, table in tables.items() if table}
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.from_string(_file("page.html")).render(
        report=report,
        mark=Markup(MARK),
        sheet=_sheet(),
        script=script,
        digest=digest,
        tables=tables,
        data=_in_script({"charts": charts, "tables": tables, "ready": len(charts)}),
        plot=lambda figure: plots[id(figure)],
        lines_of=_lines_of,
        colour=colour,
        dashes=lambda series: [f"{gap:g}" for gap in dashes(series)],
    )

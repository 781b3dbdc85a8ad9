"""A report as one HTML page that needs nothing else: no network, no server.

Whatever comes from files is escaped, and the page's own policy lets no script run but
the one that it was written with.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import Any

from fedsparsify_jax.report.charts import TONES, Chart, Figure, Series
from fedsparsify_jax.report.colours import DARK, LIGHT
from fedsparsify_jax.report.content import Block, Report, Section
from fedsparsify_jax.report.downloads import chart_data, round_table, run_table
from fedsparsify_jax.report.drawing import colour, dashes
from fedsparsify_jax.report.svg import classes, draw, inline
from fedsparsify_jax.report.tables import Cell, Table

MARK = '<meta name="generator" content="fedsparsify report">'
"""In the head of every page, so that a later report knows what it may replace."""

_GROUNDS = {"light": "#f6f8fa", "dark": "#0f1317"}


def _file(name: str) -> str:
    found = resources.files("fedsparsify_jax.report").joinpath(name)
    return found.read_text(encoding="utf-8")


def _colours() -> str:
    def variables(ground: str, names: dict[str, str]) -> str:
        pairs = {"ground": ground} | names
        return "".join(f"--{name}:{value};" for name, value in pairs.items())

    light = f":root{{{variables(_GROUNDS['light'], LIGHT)}}}"
    dark = f":root{{{variables(_GROUNDS['dark'], DARK)}}}"
    return f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}"


def _in_script(content: Any) -> str:
    """JSON that nothing in it can end early."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _Page:
    """Writes parts, and remembers the numbers behind the charts."""

    def __init__(self) -> None:
        self.charts: dict[str, Any] = {}

    def figure(self, figure: Figure, shared: bool, above: str) -> str:
        name = f"c{len(self.charts)}"
        drawing = draw(figure)
        self.charts[name] = chart_data(figure, drawing)
        # What the block's title says already is not said again.
        title, own = figure.title.removeprefix(f"{above}: "), ""
        if isinstance(figure, Chart) and len(figure.series) > 1 and not shared:
            own = _legend(figure.series)
        return (
            f"<figure data-legend><figcaption>{escape(title)}</figcaption>{own}"
            f'<div class="plot" data-chart="{name}" role="group" aria-label="'
            f'{escape(figure.title)}: arrow keys read values">'
            f"{inline(drawing, _said(figure))}</div></figure>"
        ).replace(" data-legend", "" if shared else " data-legend")

    def block(self, block: Block, shared: bool) -> str:
        figures = "".join(
            self.figure(figure, shared, block.title) for figure in block.figures
        )
        body = f'<div class="charts">{figures}</div>' if figures else ""
        body += "".join(map(_table, block.tables))
        if len(block.figures) == 1 and block.tables:
            body = f'<div class="beside">{body}</div>'
        if not block.title:
            return body
        state = "" if block.folded else " open"
        summary = f"<summary>{escape(block.title)}</summary>"
        return f"<details{state}>{summary}{body}</details>"

    def section(self, section: Section) -> str:
        words = "".join(f"<p>{escape(text)}</p>" for text in section.words)
        every = [
            series
            for block in section.blocks
            for figure in block.figures
            if isinstance(figure, Chart)
            for series in figure.series
        ]
        legend = _legend(every) if section.shared else ""
        blocks = "".join(self.block(block, section.shared) for block in section.blocks)
        scope = " data-legend" if section.shared else ""
        return (
            f'<section id="{escape(section.name)}" aria-labelledby="h-'
            f'{escape(section.name)}"{scope}><h2 id="h-{escape(section.name)}">'
            f"{escape(section.title)}</h2>{words}{legend}{blocks}</section>"
        )


def _said(figure: Figure) -> str:
    """What a screen reader says of a chart: where each line starts and ends."""
    if not isinstance(figure, Chart):
        return f"{figure.title}: heat map, {len(figure.rows)} rows over rounds"
    names = ", ".join(series.label for series in figure.series)
    return f"{figure.title}: {figure.y_label} against {figure.x_label}; lines: {names}"


def _legend(series: Sequence[Series]) -> str:
    items = []
    for one in {s.tone: s for s in reversed(series)}.values():
        gaps = " ".join(f"{gap:g}" for gap in dashes(one))
        dashed = f' stroke-dasharray="{gaps}"' if gaps else ""
        line = (
            '<svg class="c" viewBox="0 0 20 8" aria-hidden="true"><polyline '
            f'class="{colour(one)}" points="0,4 20,4" stroke-width="2.5"{dashed}/>'
            "</svg>"
        )
        button = (
            f'<li><button type="button" aria-pressed="true" data-tone="{one.tone}">'
            f"{line}{escape(one.label)}</button></li>"
        )
        items.append((one.tone, button))
    return f'<ul class="legend">{"".join(text for _, text in sorted(items))}</ul>'


def _is_number(table: Table, column: int) -> bool:
    cells = [row[column] for row in table.rows]
    return any(cell.value is not None for cell in cells)


def _cell(cell: Cell, column: int, numbers: bool) -> str:
    name, scope = ("th", ' scope="row"') if column == 0 else ("td", "")
    kinds = ["numbers" if numbers else "words"]
    if not numbers and len(cell.words) > 24:
        kinds.append("long")
    if cell.share is not None:
        kinds.append(f"h{min(3, 1 + int(cell.share * 3))}")
    value = "" if cell.value is None else f' data-v="{cell.value:.10g}"'
    return (
        f'<{name}{scope} class="{" ".join(kinds)}"{value}>{escape(cell.words)}</{name}>'
    )


def _table(table: Table) -> str:
    numbers = [_is_number(table, column) for column in range(len(table.head))]
    head = []
    for words, is_number in zip(table.head, numbers, strict=True):
        kind = "numbers" if is_number else "words"
        text = escape(words)
        if table.sortable:
            text = f'<button type="button">{text}</button>'
        head.append(f'<th scope="col" class="{kind}">{text}</th>')
    rows = "".join(
        "<tr>" + "".join(_cell(c, n, numbers[n]) for n, c in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    title = escape(table.title)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div><div class="wide" role="region" aria-label="{title}" tabindex="0">'
        f"<table><caption>{title}</caption><thead><tr>{''.join(head)}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{note}</div>"
    )


def _tiles(tiles: Iterable[tuple[str, str, str]]) -> str:
    made = (
        f'<div class="tile"><dt>{escape(name)}</dt><dd class="value">{escape(value)}'
        f'</dd><dd class="remark">{escape(remark)}</dd></div>'
        for name, value, remark in tiles
    )
    return f'<dl class="tiles">{"".join(made)}</dl>'


def _downloads(tables: dict[str, Any], all_rounds: bool) -> str:
    names = {"runs": "Runs", "rounds": "Rounds"}
    buttons = "".join(
        f'<button type="button" data-save="{name}" data-as="{kind}">'
        f"{names[name]} as {kind.upper()}</button>"
        for name in tables
        for kind in ("csv", "json")
    )
    words = "The numbers behind this page are inside it."
    if not all_rounds:
        words += " Single rounds are too many to carry; they are in metrics.jsonl."
    return (
        '<section id="data-files" aria-labelledby="h-data"><h2 id="h-data">Data</h2>'
        f'<p>{words}</p><div class="save">{buttons}</div></section>'
    )


def page(report: Report) -> str:
    """The whole HTML document."""
    writer = _Page()
    sections = "".join(map(writer.section, report.sections))
    tables = {"runs": run_table(report.runs), "rounds": round_table(report.runs)}
    tables = {name: table for name, table in tables.items() if table}
    data = {"charts": writer.charts, "tables": tables, "ready": len(writer.charts)}
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    links = "".join(
        f'<a href="#{escape(section.name)}">{escape(section.title)}</a>'
        for section in report.sections
    )
    series = [f"s{n}" for n in range(TONES)]
    names = ["paper", "ink", "quiet", "grid", "axis", *series]
    sheet = classes([*names, *(f"h{n}" for n in range(9))])
    title = escape(report.title)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'{MARK}\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,"><title>{title}</title>\n'
        f"<style>{_colours()}{_file('page.css')}{sheet}</style></head>\n"
        '<body><a class="skip" href="#main">Skip to the results</a>'
        f'<div class="page"><header><h1>{title}</h1>'
        f'<p class="under">{escape(report.subtitle)}</p></header>'
        f'<nav aria-label="Sections">{links}<a href="#data-files">Data</a></nav>'
        f'<main id="main"><section aria-label="In short">{_tiles(report.tiles)}'
        f"</section>{sections}{_downloads(tables, 'rounds' in tables)}</main></div>\n"
        f'<script type="application/json" id="data">{_in_script(data)}</script>\n'
        f"<script>{script}</script></body></html>\n"
    )

"""Results as Markdown tables: mean ± standard deviation over seeds, in percent.

A cell is a function of a row's key and a point of the axes, so that one layout shows
means, differences, sparsities and bytes.
"""

from collections.abc import Callable, Sequence
from typing import Any

from experiments.lib.results import Measure, Results, achieved, saving
from fedsparsify_jax.report.results import NOISE, spread
from fedsparsify_jax.text_table import markdown as table

EMPTY = "-"
Cell = Callable[..., str]
"""Called with a row's key and, by name, where on the axes."""


def percent(value: float) -> str:
    """Returns ``90 %`` for ``0.9``."""
    return f"{100 * value:.0f} %"


def by_sparsity(
    results: Results,
    cell: Cell,
    rows: Sequence[str] | None = None,
    *,
    head: str = "method",
    dense: bool = False,
    **point: Any,
) -> str:
    """Returns a table with rows down and final sparsities across.

    Args:
      results: of the table.
      cell: the text at a row and a point.
      rows: keys of rows, all of them by default.
      head: heading of the first column.
      dense: whether dense methods have a column for themselves.
      **point: the other axes.
    """
    sparsities, blank = results.axis("final_sparsity"), [""]
    lines = []
    for row in results.rows if rows is None else rows:
        if dense and results.dense(row):
            cells = [cell(row, **point), *blank * len(sparsities)]
        else:
            cells = blank * dense
            cells += [cell(row, final_sparsity=s, **point) for s in sparsities]
        lines.append([results.label(row), *cells])
    return table([head, *["dense"] * dense, *map(percent, sparsities)], lines)


def value(results: Results, measure: Measure, scale: float | None = None) -> Cell:
    """Returns cells of a measure; ≈ marks those within noise of the reference.

    Args:
      results: of the table.
      measure: of a cell.
      scale: what it is multiplied by; that of the table's metric by default.
    """
    scale = results.scale if scale is None else scale
    digits = 1 if scale == 100 else 2
    seeds = len(results.axis("seed"))

    def cell(row: str, **point: Any) -> str:
        over_seeds = spread(scale * results.values(row, measure, **point))
        if over_seeds is None:
            return EMPTY
        text = over_seeds.text(digits)
        if over_seeds.runs < seeds:
            text += f" ({over_seeds.runs} of {seeds})"
        if row == results.table.reference or results.dense(row):
            return text
        gap = results.difference(row, measure, **point)
        return text + (NOISE if gap is not None and gap.noise else "")

    return cell


def difference(results: Results, measure: Measure, of: str | None = None) -> Cell:
    """Returns cells of rows minus another one, the reference by default, in points."""

    def cell(row: str, **point: Any) -> str:
        gap = results.difference(row, measure, of=of, **point)
        return EMPTY if gap is None else gap.text(results.scale)

    return cell


def differences(results: Results, measure: Measure, **point: Any) -> str:
    """Returns a table of all rows minus the reference."""
    reference = results.table.reference
    rows = [row for row in results.rows if row != reference]
    head = f"minus {results.label(reference)}"
    return by_sparsity(results, difference(results, measure), rows, head=head, **point)


def sparsity(results: Results, **point: Any) -> str:
    """Returns a table of achieved sparsities and of how many parameters are kept."""

    def cell(row: str, **place: Any) -> str:
        share = results.spread(row, achieved, **place)
        kept = results.spread(row, "kept", **place)
        if share is None or kept is None:
            return EMPTY
        return f"{share.text(3, 100)} ({kept.mean:,.0f} kept)"

    rows = [row for row in results.rows if not results.dense(row)]
    return by_sparsity(results, cell, rows, **point)


def traffic(results: Results, **point: Any) -> str:
    """Returns a table of megabytes, with one-bit masks too, and the saving."""

    def cell(row: str, **place: Any) -> str:
        measures = ("bytes", "bytes_with_masks", saving)
        spreads = [results.spread(row, measure, **place) for measure in measures]
        moved, masks, ratio = (each.mean if each else None for each in spreads)
        if moved is None or masks is None or ratio is None:
            return EMPTY
        if results.dense(row):
            return f"{moved / 1e6:,.0f}"
        return f"{moved / 1e6:,.0f} / {masks / 1e6:,.0f} ({ratio:.2f} x)"

    return by_sparsity(results, cell, dense=True, **point)


def grid(results: Results, cell: Cell, down: str, across: str, **point: Any) -> str:
    """Returns a table of the first row's cells, one axis of numbers against another."""
    row, columns = results.rows[0], results.axis(across)
    lines = []
    for value in results.axis(down):
        cells = [cell(row, **{**point, down: value, across: v}) for v in columns]
        lines.append([f"{down} {value:g}", *cells])
    return table(["", *(f"{across} {value:g}" for value in columns)], lines)


def still_missing(results: Results) -> str:
    """Returns the commands that fill empty cells, or that there are none."""
    tables: dict[str, dict[str, int]] = {}
    for row in results.rows:
        if count := results.missing(row):
            name = results.table.row(row).of or results.table.name
            tables.setdefault(name, {})[row] = count
    lines = [
        f"{sum(rows.values())} cells have not been run: `python -m experiments.run "
        f"{name} --preset {results.preset} --missing --only {' '.join(rows)}`."
        for name, rows in tables.items()
    ]
    return "\n".join(lines) or "All cells are there."

"""Results as Markdown tables: mean ± standard deviation over seeds, in percent."""

from collections.abc import Sequence
from typing import Any

from experiments.lib.results import Measure, Results
from experiments.lib.stats import Difference, spread

NOISE = " ≈"
"""Marks what is within noise of the reference."""
EMPTY = "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right.

    >>> print(table(["method", "90 %"], [["Global", "87.1"]]))
    | method | 90 % |
    | :-- | --: |
    | Global | 87.1 |
    """
    rule = [":--", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def percent(value: float, digits: int = 0) -> str:
    """``0.9`` to ``90 %``."""
    return f"{100 * value:.{digits}f} %"


def value(
    results: Results, row: str, measure: Measure, *, mark: bool = True, **point: Any
) -> str:
    """One cell of a table.

    Args:
      results: of the table.
      row: a row's key.
      measure: what is shown.
      mark: whether to mark what is within noise of the reference.
      **point: where on the axes.
    """
    found = results.values(row, measure, **point)
    if not found:
        return EMPTY
    digits = 1 if results.metric == "accuracy" else 2
    every = [found[seed] for seed in sorted(found)]
    text = spread(every, digits, results.scale)
    seeds = len(results.axis("seed"))
    if len(found) < seeds:
        text += f" ({len(found)} of {seeds})"
    if mark and row != results.table.reference:
        gap = results.difference(row, measure, **point)
        if gap is not None and gap.noise:
            text += NOISE
    return text


def by_sparsity(
    results: Results,
    measure: Measure,
    shown: Sequence[str] | None = None,
    **point: Any,
) -> str:
    """Methods down, final sparsities across; dense methods have a column of their own.

    Args:
      results: of the table.
      measure: see `results.MEASURES`.
      shown: keys of rows, all of them by default.
      **point: the other axes.
    """
    sparsities = results.axis("final_sparsity")
    rows = []
    for row in results.rows if shown is None else shown:
        if results.dense(row):
            cells = [value(results, row, measure, mark=False, **point)]
            cells += [""] * len(sparsities)
        else:
            cells = [
                "",
                *(
                    value(results, row, measure, final_sparsity=s, **point)
                    for s in sparsities
                ),
            ]
        rows.append([results.label(row), *cells])
    return table(["method", "dense", *map(percent, sparsities)], rows)


def differences(results: Results, measure: Measure, **point: Any) -> str:
    """Every method minus the reference, seed by seed, in points with 95 % intervals."""
    sparsities, reference = results.axis("final_sparsity"), results.table.reference
    rows = []
    for row in results.rows:
        if row == reference:
            continue
        cells = []
        for sparsity in sparsities:
            place = {**point, "final_sparsity": sparsity}
            cells.append(difference(results, row, measure, **place))
        rows.append([results.label(row), *cells])
    head = [f"minus {results.label(reference)}", *map(percent, sparsities)]
    return table(head, rows)


def difference(
    results: Results, row: str, measure: Measure, of: str | None = None, **point: Any
) -> str:
    """A row minus another one, the reference by default; one seed has no interval."""
    gap = results.difference(row, measure, of=of, **point)
    if gap is not None:
        return points(gap, results.scale)
    other = results.table.reference if of is None else of
    values, others = (results.values(key, measure, **point) for key in (row, other))
    common = sorted(set(values) & set(others))
    if not common:
        return EMPTY
    alone = values[common[0]] - others[common[0]]
    return f"{results.scale * alone:+.1f} (1 seed)"


def points(gap: Difference, scale: float = 100.0) -> str:
    """A difference in percentage points with half its interval, marked if noise.

    >>> points(Difference(0.01, -0.01, 0.03, seeds=3))
    '+1.0 ± 2.0 ≈'
    """
    text = f"{scale * gap.mean:+.1f} ± {scale * gap.half:.1f}"
    return text + (NOISE if gap.noise else "")


def sparsity(results: Results, **point: Any) -> str:
    """Achieved sparsity, exactly, and how many parameters are kept."""
    sparsities = results.axis("final_sparsity")
    rows = []
    for row in results.rows:
        if results.dense(row):
            continue
        cells = []
        for target in sparsities:
            place = {**point, "final_sparsity": target}
            achieved = list(results.values(row, _exact, **place).values())
            kept = results.mean(row, "kept", **place)
            cells.append(
                EMPTY
                if kept is None
                else f"{spread(achieved, 3, 100)} ({kept:,.0f} kept)"
            )
        rows.append([results.label(row), *cells])
    return table(["method", *map(percent, sparsities)], rows)


def _exact(line: dict[str, Any]) -> float:
    return 1 - line["kept"] / line["parameters"]


def saved(line: dict[str, Any]) -> float:
    """How many times less than dense a run moved, by the authors' formula."""
    return line["bytes_dense"] / line["bytes"]


def saved_with_masks(line: dict[str, Any]) -> float:
    """The same when the masks are sent too, a bit a weight."""
    return line["bytes_dense"] / line["bytes_with_masks"]


def traffic(results: Results, **point: Any) -> str:
    """Megabytes by the formula, with one-bit masks, and the saving against dense."""
    sparsities = results.axis("final_sparsity")
    rows = []
    for row in results.rows:
        columns = (
            [{}]
            if results.dense(row)
            else [{"final_sparsity": target} for target in sparsities]
        )
        cells = [_traffic(results, row, **column, **point) for column in columns]
        blank = [""] * len(sparsities)
        cells = [*cells, *blank] if results.dense(row) else ["", *cells]
        rows.append([results.label(row), *cells])
    return table(["method", "dense", *map(percent, sparsities)], rows)


def _traffic(results: Results, row: str, **point: Any) -> str:
    moved = results.mean(row, "bytes", **point)
    masks = results.mean(row, "bytes_with_masks", **point)
    ratio = results.mean(row, saved, **point)
    if moved is None or masks is None or ratio is None:
        return EMPTY
    if results.dense(row):
        return f"{moved / 1e6:,.0f}"
    return f"{moved / 1e6:,.0f} / {masks / 1e6:,.0f} ({ratio:.2f} x)"


def still_missing(results: Results) -> str:
    """Which cells there are not, and the command that fills them; else empty."""
    lines = []
    for name in dict.fromkeys(
        results.table.row(row).of or results.table.name for row in results.rows
    ):
        empty = {
            row: results.missing(row)
            for row in results.rows
            if (results.table.row(row).of or results.table.name) == name
        }
        empty = {row: count for row, count in empty.items() if count}
        if empty:
            lines.append(
                f"{sum(empty.values())} cells have not been run: `python -m "
                f"experiments.run {name} --preset {results.preset} --missing --only "
                f"{' '.join(empty)}`."
            )
    return "\n".join(lines)

"""Results as SVG figures, drawn as `report` draws, a chart a federation."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from experiments.lib.panels import Panel
from experiments.lib.results import Results, rounds_of
from fedsparsify_jax.report import lines, svg
from fedsparsify_jax.report.charts import Chart, HeatMap, Series

POINTS = 40
"""Points of a line."""
Axis = tuple[str, str]
"""Label and kind, see `report.scales`."""


def charts(panels: Iterable[tuple[str, Sequence[Series]]], x: Axis, y: Axis) -> str:
    """Returns charts side by side, a title and its lines each, as an SVG file."""
    return svg.document(
        *(
            Chart(title, x[0], y[0], tuple(series), x[1], y[1])
            for title, series in panels
            if series
        )
    )


def _of_rows(
    results: Results, draw: Callable[[Panel, str, int], list[Series]], x: Axis
) -> str:
    """Returns a chart a panel; a row has the same tone in all figures of a table."""
    kind, name = lines.measure(results.metric)
    tones = {row.key: tone for tone, row in enumerate(results.table.rows)}
    panels = [
        (panel.title, [s for row in results.rows for s in draw(panel, row, tones[row])])
        for panel in results.panels
    ]
    return charts(panels, x, (f"test {name}", kind))


def accuracy_sparsity(results: Results, measure: str = "last_5") -> str:
    """Returns accuracy against sparsity: means and deviations over seeds."""

    def draw(panel: Panel, row: str, tone: int) -> list[Series]:
        targets = results.axis("final_sparsity")[: 1 if results.dense(row) else None]
        cells = [
            results.repetitions(row, **panel.point, final_sparsity=target)
            for target in targets
        ]
        return lines.trade_off(cells, "sparsity", measure, results.label(row), tone)

    return _of_rows(results, draw, ("sparsity", "percent"))


def accuracy_over(results: Results, final_sparsity: float, across: str) -> str:
    """Returns accuracy against rounds or bytes: moving means over rounds and seeds.

    Args:
      results: of the table.
      final_sparsity: of the sparse methods.
      across: ``"rounds"`` or ``"bytes"``.
    """
    test = f"test_{results.metric}"

    def draw(panel: Panel, row: str, tone: int) -> list[Series]:
        cells = results.repetitions(row, **panel.point, final_sparsity=final_sparsity)
        column = "round" if across == "rounds" else "moved_so_far"
        return lines.against(cells, column, test, results.label(row), tone, POINTS)

    axes = {"rounds": ("round", "count"), "bytes": ("moved, both ways", "megabytes")}
    return _of_rows(results, draw, axes[across])


def layers(results: Results, rows: Sequence[str], final_sparsity: float) -> str:
    """Returns the sparsity of every layer, over the rounds of one run a row.

    What a layer keeps in round 1 counts as all of it, which holds for methods that
    start dense.
    """
    maps = []
    for panel in results.panels:
        strips = []
        for row in rows:
            point = {**panel.point, "final_sparsity": final_sparsity}
            cells = results.cells(row, **point).values()
            for line in [c for c in cells if "layers" in c["curves"]][:1]:
                curves, rounds = line["curves"], rounds_of(line)["sparsity"].dropna()
                kernels = [n for n in curves["layers"] if n.endswith("kernel")]
                for name in kernels:
                    kept = np.array(curves["layers"][name], float)
                    shares = np.maximum(0, 1 - kept / curves["layers_first"][name])
                    points = list(zip(rounds.index.astype(float), shares, strict=True))
                    label = f"{results.label(row)}, {name.split('/')[-2]}"
                    strips.append((label, points))
        if strips:
            maps.append(HeatMap(panel.title, "round", tuple(strips)))
    return svg.document(*maps) if maps else ""

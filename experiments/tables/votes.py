"""How FedSparsify-Local's server votes and merges, and how its sparsity drifts.

Claim (from the authors' code): a weight stays if floor(K/2) of K clients keep it, and
the mean counts the zeros of the others. Ablations: more than half the votes, no vote at
all, and the mean over those who kept the weight (NNZ). Only clients are held to the
schedule, so the global model's sparsity may drift from it.

    python -m experiments.run votes

Expected: 54 runs, 20 minutes of 2 free cores. The drift is largest early, when a
round purges much that clients do not agree on, and gone in the end, when cubic purges
are small and all clients purge within the same masks.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.lib import figures, markdown
from experiments.lib.collecting import Line
from experiments.lib.reporting import Report
from experiments.lib.results import Results, rounds_of
from experiments.lib.stats import spread
from experiments.lib.table import Preset, Row, Table
from experiments.tables import fashion_mnist
from fedsparsify_jax import schedules

LOCAL = {"algorithm": "fedsparsify-local"}

TABLE = Table(
    name="votes",
    title="FashionMNIST, 100 clients at 10 %: votes and merges of Local",
    rows=(
        Row("fedsparsify-local", "floor(K/2) (authors)", LOCAL, of="fashion_mnist"),
        Row("strict", "more than K/2", {**LOCAL, "vote_rule": "strict"}),
        Row("none", "no vote", {**LOCAL, "vote_rule": "none"}),
        Row("nonzero", "floor(K/2), mean of non-zeros", {**LOCAL, "merge": "nonzero"}),
    ),
    options=fashion_mnist.TABLE.options,
    axes={**fashion_mnist.TABLE.axes, "final_sparsity": (0.9, 0.95, 0.99)},
    presets={"paper": Preset("20 minutes on 2 cores")},
    reference="fedsparsify-local",
)


def report(results: Results) -> Report:
    """Accuracy, drift at the end, drift over the rounds."""
    made = Report()
    for panel in results.panels:
        made.add(
            f"last_10-{panel.key}",
            f"Test accuracy in %, mean of the last ten rounds, {panel.title}",
            markdown.by_sparsity(results, "last_10", **panel.point),
        )
        made.add(
            f"drift-{panel.key}",
            f"Sparsity of the global model minus its target, in points, {panel.title}",
            _drifts(results, panel.point, _last),
        )
        made.add(
            f"drift-most-{panel.key}",
            f"The largest such difference in any fifth round, in points, {panel.title}",
            _drifts(results, panel.point, _most),
        )
    if results.lines:
        made.figures["drift"] = _figure(results, 0.95)
    return made


def _drift(line: Line) -> np.ndarray:
    """Sparsity minus target at the rounds of a line's curves."""
    rounds = np.array(rounds_of(line))
    wanted = schedules.polynomial(
        line["options"]["final_sparsity"], end=line["options"]["rounds"]
    )(rounds)
    return np.array(line["curves"]["sparsity"]) - wanted


def _last(line: Line) -> float:
    return 1 - line["kept"] / line["parameters"] - line["options"]["final_sparsity"]


def _most(line: Line) -> float:
    gaps = _drift(line)
    return float(gaps[np.argmax(np.abs(gaps))])


def _drifts(
    results: Results, point: Mapping[str, Any], measure: Callable[[Line], float]
) -> str:
    rows = []
    for row in results.rows:
        cells = []
        for target in results.axis("final_sparsity"):
            place = {**point, "final_sparsity": target}
            gaps = list(results.values(row, measure, **place).values())
            cells.append(spread(gaps, 2, 100) or markdown.EMPTY)
        rows.append([results.label(row), *cells])
    head = map(markdown.percent, results.axis("final_sparsity"))
    return markdown.table(["vote", *head], rows)


def _figure(results: Results, target: float) -> str:
    panels = []
    for panel in results.panels:
        curves = {}
        for row in results.rows:
            place = {**panel.point, "final_sparsity": target}
            cells = list(results.cells(row, **place).values())
            if cells:
                drift = np.mean([_drift(line) for line in cells], axis=0)
                curves[results.label(row)] = (rounds_of(cells[0]), 100 * drift)
        panels.append((panel.title, curves))
    return figures.lines(panels, "round", "sparsity minus target, points")

"""Votes and merges of FedSparsify-Local's server, and the drift of its sparsity.

Claim (from the authors' code): a weight stays if floor(K/2) of K clients keep it, and
the mean counts the zeros of the others. Ablations: more than half the votes, no vote at
all, and the mean over those who kept the weight (NNZ). Only clients are held to the
schedule, so the global model's sparsity may drift from it.

    python -m experiments.run votes

Expected: 54 runs, 20 minutes of 2 free cores. The drift is largest early, when a
round purges much that clients do not agree on, and gone in the end, when cubic purges
are small and all clients purge within the same masks.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from experiments.lib import figures, markdown
from experiments.lib.collecting import Line
from experiments.lib.panels import Panel
from experiments.lib.reporting import Report
from experiments.lib.results import Results, achieved, rounds_of
from experiments.lib.table import Preset, Row, Table
from experiments.tables import fashion_mnist
from fedsparsify_jax import schedules
from fedsparsify_jax.report.charts import Series
from fedsparsify_jax.report.results import over_rounds

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
    """Returns accuracy, drift at the end, drift over the rounds."""
    report = Report()
    for panel in results.panels:
        report.add(
            f"last_5-{panel.key}",
            f"Test accuracy in %, mean of the last five rounds, {panel.title}",
            markdown.by_sparsity(
                results, markdown.value(results, "last_5"), dense=True, **panel.point
            ),
        )
        report.add(
            f"drift-{panel.key}",
            f"Sparsity of the global model minus its target, in points, {panel.title}",
            _drifts(results, _last, panel),
        )
        report.add(
            f"drift-most-{panel.key}",
            f"The largest such difference in any fifth round, in points, {panel.title}",
            _drifts(results, _most, panel),
        )
    if results.lines:
        report.figures["drift"] = _figure(results, 0.95)
    return report


def _drift(line: Line) -> pd.DataFrame:
    """Returns sparsity minus target at the rounds of a line's curves."""
    sparsity = rounds_of(line)["sparsity"].dropna()
    options = line["options"]
    schedule = schedules.polynomial(options["final_sparsity"], end=options["rounds"])
    target = np.asarray(schedule(np.array(sparsity.index)))
    return (sparsity - target).to_frame("drift")


def _last(line: Line) -> float:
    return achieved(line) - line["options"]["final_sparsity"]


def _most(line: Line) -> float:
    drift = _drift(line)["drift"]
    return float(drift[drift.abs().idxmax()])


def _drifts(results: Results, measure: Callable[[Line], float], panel: Panel) -> str:
    def cell(row: str, **point: Any) -> str:
        drift = results.spread(row, measure, **point)
        return drift.text(2, 100) if drift else markdown.EMPTY

    return markdown.by_sparsity(results, cell, head="vote", **panel.point)


def _figure(results: Results, target: float) -> str:
    panels = []
    for panel in results.panels:
        series = []
        for tone, row in enumerate(results.rows):
            place = {**panel.point, "final_sparsity": target}
            tables = [_drift(line) for line in results.cells(row, **place).values()]
            mean = over_rounds(tables, "drift")["mean"]
            if len(mean):
                points = [(float(t), y) for t, y in mean.items()]
                series.append(Series(results.label(row), tone, points))
        panels.append((panel.title, series))
    y = ("sparsity minus target", "percent")
    return figures.charts(panels, ("round", "count"), y)

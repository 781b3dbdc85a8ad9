"""The page of `second_why`: tables and figures from its committed lines."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.lib import figures, markdown
from experiments.lib.collecting import Line
from experiments.lib.reporting import Report
from experiments.lib.results import RESULTS, WINDOW, study_lines
from fedsparsify_jax.report import svg
from fedsparsify_jax.report.charts import HeatMap, Series, thinned
from fedsparsify_jax.report.results import spread

NAME = "second_why"
FEDERATIONS = {"iid": "IID", "label-shards": "two classes a client"}
_HELP = {"cohort_sampling": "representative", "server_lookahead": 0.5}


@dataclasses.dataclass(frozen=True)
class Arm:
    """A method of the study: its name for readers and its options."""

    label: str
    options: dict[str, Any]


METHODS = {
    "control": Arm("Global, momentum and average", {"algorithm": "fedsparsify-global"}),
    "helped": Arm(
        "Global, with all help", {"algorithm": "fedsparsify-global", **_HELP}
    ),
    "first": Arm("FedSparsify-Plus", {"algorithm": "fedsparsify-plus"}),
    "cohorts": Arm(
        "Second edition, no look-ahead",
        {"algorithm": "fedsparsify-plus", **_HELP, "server_lookahead": 0.0},
    ),
    "second": Arm(
        "FedSparsify-Plus, second edition", {"algorithm": "fedsparsify-plus", **_HELP}
    ),
}
Curve = list[tuple[float, float]]  # (round, value)
Measure = Callable[[Line], Curve]


def curve(name: str) -> Measure:
    """Returns what reads a curve of a line, without the rounds that do not have it.

    >>> curve("flow")({"curves": {"flow": [None, 2.0, None, 4.0]}})
    [(2.0, 2.0), (4.0, 4.0)]
    """

    def read(line: Line) -> Curve:
        values = enumerate(line["curves"][name], 1)
        return [(float(t), value) for t, value in values if value is not None]

    return read


def excess(line: Line) -> Curve:
    """Returns the loss of the clients' models beyond that of their mean."""
    pairs = zip(curve("clients_loss")(line), curve("merged_loss")(line), strict=True)
    return [(t, apart - merged) for (t, apart), (_, merged) in pairs]


def swing(line: Line) -> Curve:
    """Returns the accuracy's deviation over the last `WINDOW` rounds, in points.

    >>> swing({"curves": {"accuracy": [0.5, 0.7] * 5}})
    [(10.0, 10.0)]
    """
    values = 100 * np.array(line["curves"]["accuracy"])
    ends = range(WINDOW, len(values) + 1)
    return [(float(t), float(np.std(values[t - WINDOW : t]).round(6))) for t in ends]


@dataclasses.dataclass(frozen=True)
class Shown:
    """A measure of the page: its heading, the axis of its figure, and its format."""

    heading: str
    axis: str
    read: Measure
    digits: int = 2


SHOWN = {
    "turn": Shown("Cosine of a move and the one before", "cosine", curve("turn")),
    "together": Shown(
        "Share of the clients' moves that survives their mean",
        "|mean move|² / mean |move|²",
        curve("together"),
    ),
    "swing": Shown(
        f"Deviation of the accuracy over {WINDOW} rounds, in points",
        "points",
        swing,
        1,
    ),
    "overlap": Shown(
        "Jaccard index of the clients' own masks of half of what is kept (chance: .33)",
        "Jaccard index",
        curve("overlap"),
    ),
    "barrier": Shown("Loss barrier between clients", "loss", curve("barrier")),
    "excess": Shown(
        "Loss of the clients' models beyond that of their mean", "loss", excess
    ),
    "flow": Shown(
        "Gradient flow: squared norm of the kept weights' gradient",
        "squared norm",
        curve("flow"),
        3,
    ),
    "flow-pruned": Shown(
        "Squared norm of the pruned weights' gradient",
        "squared norm",
        curve("flow_pruned"),
        3,
    ),
    "still": Shown(
        "Share of the kept weights within a tenth of where they started",
        "share",
        curve("still"),
        3,
    ),
}
"""The measures, in the order of the page."""


def _mean(curves: Sequence[Curve]) -> Curve:
    """Returns the mean of curves over the same rounds."""
    rounds = [t for t, _ in curves[0]]
    means = np.mean([[value for _, value in points] for points in curves], axis=0)
    return list(zip(rounds, means.tolist(), strict=True))


def _of(lines: Sequence[Line], method: str, partition: str) -> list[Line]:
    wanted = (method, partition)
    return [line for line in lines if (line["method"], line["partition"]) == wanted]


def _quarters(lines: Sequence[Line], shown: Shown) -> list[str]:
    """Returns means over each quarter of the rounds, and over seeds."""
    cells, last = [], lines[0]["rounds"]
    points = _mean([shown.read(line) for line in lines])
    for n in range(4):
        begin, end = last * n // 4, last * (n + 1) // 4
        part = [value for t, value in points if begin < t <= end]
        cells.append(f"{np.mean(part):.{shown.digits}f}" if part else "-")
    return cells


def _accuracy(lines: Sequence[Line]) -> str:
    """Returns the held-out accuracy of the averages in the last round, in %."""
    if not lines:
        return "Not measured yet."

    def cell(method: str, partition: str) -> str:
        some = _of(lines, method, partition)
        accuracy = spread(line["average_accuracy"] for line in some)
        return accuracy.text(scale=100) if accuracy else markdown.EMPTY

    rows = [
        [arm.label, *(cell(method, partition) for partition in FEDERATIONS)]
        for method, arm in METHODS.items()
    ]
    return markdown.table(["in %", *FEDERATIONS.values()], rows)


def _table(lines: Sequence[Line], shown: Shown) -> str:
    rows = []
    for partition, title in FEDERATIONS.items():
        for method, arm in METHODS.items():
            if some := _of(lines, method, partition):
                rows.append([f"{arm.label}, {title}", *_quarters(some, shown)])
    if not rows:
        return "Not measured yet."
    head = ["mean of", "first quarter", "second", "third", "last quarter of the rounds"]
    return markdown.table(head, rows)


def _smooth(points: Curve) -> Curve:
    """Returns moving means, of curves that have a value every round."""
    if points[1:] and points[1][0] - points[0][0] > 1:
        return points
    values = np.array([value for _, value in points])
    starts = [max(0, n - WINDOW + 1) for n in range(len(values))]
    means = [values[start : n + 1].mean() for n, start in enumerate(starts)]
    return [(t, float(mean)) for (t, _), mean in zip(points, means, strict=True)]


def _thin(points: Curve) -> Curve:
    """Returns the points of a strip, whose colours change seldom."""
    return points[:: max(1, len(points) // figures.POINTS)]


def _figure(lines: Sequence[Line], shown: Shown) -> str:
    panels = []
    for partition, title in FEDERATIONS.items():
        series = []
        for tone, (method, arm) in enumerate(METHODS.items()):
            if some := _of(lines, method, partition):
                points = _smooth(_mean([shown.read(line) for line in some]))
                series.append(thinned(Series(arm.label, tone, points), figures.POINTS))
        panels.append((title, series))
    return figures.charts(panels, ("round", "count"), (shown.axis, "number"))


def _kept(lines: Sequence[Line]) -> dict[str, Curve]:
    """Returns the sparsity of every kernel over the rounds, mean over seeds."""
    curves = {}
    for name, size in lines[0]["sizes"].items():
        if name.endswith("kernel"):
            kept = _mean([curve(f"kept {name}")(line) for line in lines])
            curves[name.split("/")[-2]] = [(t, 1 - count / size) for t, count in kept]
    return curves


def _layers(lines: Sequence[Line]) -> tuple[str, str]:
    """Returns the sparsity of every layer at the end as a table, and over rounds."""
    rows, maps, names = [], [], [""]
    for partition, title in FEDERATIONS.items():
        strips = []
        for method, arm in METHODS.items():
            if not (some := _of(lines, method, partition)):
                continue
            curves = _kept(some)
            names = ["sparsity in % of", *curves]
            ends = [f"{100 * points[-1][1]:.2f}" for points in curves.values()]
            rows.append([f"{arm.label}, {title}", *ends])
            strips += [(f"{arm.label}, {n}", _thin(c)) for n, c in curves.items()]
        if strips:
            maps.append(HeatMap(title, "round", tuple(strips)))
    text = markdown.table(names, rows) if rows else "Not measured yet."
    return text, svg.document(*maps) if maps else ""


def report(preset: str = "paper", root: Path = RESULTS) -> Report:
    """Returns a table and a figure a measure, and the layers' sparsities."""
    content, lines = Report(), study_lines(NAME, preset, root)
    table, drawn = _layers(lines)
    content.add("accuracy", "Accuracy of the average, held out", _accuracy(lines))
    content.add("layers", "Sparsity of every layer in the last round", table)
    for name, shown in SHOWN.items():
        content.add(name, shown.heading, _table(lines, shown))
        if lines:
            content.figures[name] = _figure(lines, shown)
    if drawn:
        content.figures["layers"] = drawn
    return content

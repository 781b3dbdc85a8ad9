"""How FedSparsify-Local's server votes and merges, and how its sparsity drifts.

Claim (from the authors' code): a weight stays if floor(K/2) of K clients keep it, and
the mean counts the zeros of the others. Ablations: more than half the votes, no vote at
all, and the mean over those who kept the weight (NNZ). Only clients are held to the
schedule, so the global model's sparsity drifts from it.

    python -m experiments.run votes

Expected: 54 runs, 20 minutes of 2 free cores; without a vote the union of the clients'
masks is well below the target, the stricter the vote the further above it.
"""

import numpy as np

from experiments import fashion_mnist, figures, markdown
from experiments.figures import PARTITIONS
from experiments.reporting import Report
from experiments.results import Results, rounds_of
from experiments.stats import spread
from experiments.tables import Preset, Row, Table
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
    for partition in results.axis("partition"):
        name = PARTITIONS.get(partition, partition)
        made.add(
            f"last_10-{partition}",
            f"Test accuracy in %, mean of the last ten rounds, {name}",
            markdown.by_sparsity(results, "last_10", partition=partition),
        )
        made.add(
            f"drift-{partition}",
            f"Sparsity of the global model minus its target, in points, {name}",
            _drift(results, partition),
        )
    if results.lines:
        made.figures["drift"] = _figure(results, 0.95)
    return made


def _drift(results: Results, partition: str) -> str:
    rows = []
    for row in results.rows:
        cells = []
        for target in results.axis("final_sparsity"):
            found = results.values(
                row,
                lambda line: 1 - line["kept"] / line["parameters"],
                partition=partition,
                final_sparsity=target,
            )
            gaps = [value - target for value in found.values()]
            cells.append(spread(gaps, 2, 100) or markdown.EMPTY)
        rows.append([results.label(row), *cells])
    head = map(markdown.percent, results.axis("final_sparsity"))
    return markdown.table(["vote", *head], rows)


def _figure(results: Results, target: float) -> str:
    panels = []
    for partition in results.axis("partition"):
        curves = {}
        for row in results.rows:
            place = {"partition": partition, "final_sparsity": target}
            cells = list(results.cells(row, **place).values())
            if cells:
                rounds = rounds_of(cells[0])
                wanted = schedules.polynomial(target, end=rounds[-1])(np.array(rounds))
                found = np.array(results.curve(row, "sparsity", **place))
                curves[results.label(row)] = (rounds, 100 * (found - wanted))
        panels.append((PARTITIONS.get(partition, partition), curves))
    return figures.lines(panels, "round", "sparsity minus target, points")

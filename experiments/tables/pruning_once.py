"""A dense FedAvg model pruned once, against progressive purging.

Claim: purging round after round keeps accuracy that pruning at the end loses.
"Pruned once" is FedAvg for T rounds and one purge as its last act; OneShot tunes for
nine rounds after it.

    python -m experiments.run pruning_once

Expected: 30 runs, ten minutes of 2 free cores; a model of 95 % or more that was pruned
once and not tuned loses tens of points. The mean of the last five rounds would be that
of a dense model nearly, so the last round is shown.
"""

from experiments.lib import markdown
from experiments.lib.reporting import Report
from experiments.lib.results import Results
from experiments.lib.table import Preset, Row, Table
from experiments.tables.fashion_mnist import SPARSITIES

_THERE = "fashion_mnist"

TABLE = Table(
    name="pruning_once",
    title="FashionMNIST, 100 clients at 10 %: pruned once or progressively",
    rows=(
        Row("fedavg", "FedAvg", {"algorithm": "fedavg"}, of=_THERE),
        Row(
            "once",
            "FedAvg, pruned once at the end",
            {"algorithm": "one-shot", "fine_tune_rounds": 0},
        ),
        Row("one-shot", "OneShot, nine rounds more", {"algorithm": "one-shot"}, _THERE),
        Row(
            "fedsparsify-global",
            "FedSparsify-Global",
            {"algorithm": "fedsparsify-global"},
            of=_THERE,
        ),
    ),
    options={"dataset": "fashion_mnist", "num_clients": 100, "participation": 0.1},
    axes={
        "partition": ("iid", "label-shards"),
        "final_sparsity": SPARSITIES,
        "seed": (0, 1, 2),
    },
    presets={"paper": Preset("10 minutes on 2 cores")},
)


def report(results: Results) -> Report:
    """Returns the last round's accuracy, and differences to Global."""
    report = Report()
    for panel in results.panels:
        report.add(
            f"final-{panel.key}",
            f"Test accuracy in %, last round, {panel.title}",
            markdown.by_sparsity(
                results, markdown.value(results, "final"), dense=True, **panel.point
            ),
        )
        report.add(
            f"differences-{panel.key}",
            f"Paired differences in points, last round, {panel.title}",
            markdown.differences(results, "final", **panel.point),
        )
    return report

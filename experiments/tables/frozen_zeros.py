"""Pruning before round 1, with and without frozen zeros.

Claim (a reading of the authors' code): masks that are derived as ``w != 0`` before
training freeze every parameter that starts at zero, all biases here, in SNIP, GraSP and
PruneFL but not in FedSparsify. Does that widen the gap to these baselines?

    python -m experiments.run frozen_zeros

Expected: 54 runs, 20 minutes of 2 free cores. Nothing changes for SNIP and GraSP where
they rank all parameters: their saliency is a product with the weight, so that zeros are
pruned anyway. PruneFL's is a squared gradient; its accuracy changes.
"""

from experiments.lib import markdown
from experiments.lib.reporting import Report
from experiments.lib.results import Results
from experiments.lib.table import Preset, Row, Table
from experiments.tables import fashion_mnist

_METHODS = {
    "snip": ("SNIP", {"algorithm": "snip"}),
    "grasp-all": ("GraSP, all parameters", {"algorithm": "grasp", "prunable": "all"}),
    "prunefl": ("PruneFL", {"algorithm": "prunefl"}),
}


def _rows() -> tuple[Row, ...]:
    rows = []
    for key, (label, options) in _METHODS.items():
        rows.append(Row(key, label, options, of="fashion_mnist"))
        frozen = options | {"freeze_zero_initialized": "on"}
        rows.append(Row(f"{key}-frozen", f"{label}, zeros frozen", frozen))
    return tuple(rows)


TABLE = Table(
    name="frozen_zeros",
    title="FashionMNIST, 100 clients at 10 %: frozen zeros",
    rows=_rows(),
    options=fashion_mnist.TABLE.options,
    axes={**fashion_mnist.TABLE.axes, "final_sparsity": (0.9, 0.95, 0.99)},
    presets={"paper": Preset("20 minutes on 2 cores")},
    reference="snip",
)


def report(results: Results) -> Report:
    """Returns accuracy of all, and the effect of freezing on each."""
    report = Report()

    def cost(row: str, **point: object) -> str:
        cell = markdown.difference(results, "last_5", of=row)
        return cell(f"{row}-frozen", **point)

    rows = [row for row in results.rows if f"{row}-frozen" in results.rows]
    for panel in results.panels:
        report.add(
            f"last_5-{panel.key}",
            f"Test accuracy in %, mean of the last five rounds, {panel.title}",
            markdown.by_sparsity(
                results, markdown.value(results, "last_5"), dense=True, **panel.point
            ),
        )
        report.add(
            f"cost-{panel.key}",
            f"Frozen minus not frozen, in points, {panel.title}",
            markdown.by_sparsity(results, cost, rows, **panel.point),
        )
    return report

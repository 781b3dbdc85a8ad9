"""Clients with models of their own beside one model for all, by clients' accuracy.

Claim: none of the paper's. LotteryFL and DisPFL give every client its own sparse model,
HeteroFL and FedRolex give weaker clients a part of the global one. A global model's
test accuracy says little about them: what counts is each client's accuracy on examples
in the proportions of its own classes, on average and in the worst tenth of the clients.
All have momentum 0.9, as the fair rows do.

    python -m experiments.run personalised --missing --runs DIR

Expected: 78 runs, an hour of 2 free cores by the pace of fair_rows. Settings are the
authors' where they carry over: HeteroFL's widths are its a1-b1-c1-d1-e1, which are the
defaults; DisPFL's sparsity is its 0.5, here beside 0.9.
"""

from typing import Any

from experiments.lib import markdown
from experiments.lib.collecting import Line
from experiments.lib.reporting import Report
from experiments.lib.results import Measure, Results
from experiments.lib.table import Preset, Row, Table
from experiments.tables import fashion_mnist


def _row(key: str, label: str, algorithm: str, **options: object) -> Row:
    return Row(key, label, {"algorithm": algorithm, **options})


TABLE = Table(
    name="personalised",
    title="FashionMNIST, 100 clients at 10 %: clients with models of their own",
    rows=(
        _row("fedavg", "FedAvg", "fedavg"),
        _row("global", "FedSparsify-Global", "fedsparsify-global"),
        _row("local", "FedSparsify-Local", "fedsparsify-local"),
        _row("ssfl", "SSFL", "ssfl"),
        _row("heterofl", "HeteroFL", "heterofl", mask_classes="on"),
        _row("fedrolex", "FedRolex", "fedrolex", mask_classes="on"),
        _row("lotteryfl", "LotteryFL", "lotteryfl"),
        _row("dispfl", "DisPFL", "dispfl"),
    ),
    options={
        **fashion_mnist.TABLE.options,
        "momentum": 0.9,
        "client_evaluation": "on",
    },
    axes={
        "partition": ("iid", "label-shards"),
        "final_sparsity": (0.5, 0.9),
        "seed": (0, 1, 2),
    },
    presets={
        "smoke": Preset(
            "under a minute",
            {
                "rounds": 2,
                "local_epochs": 1,
                "partition": ("label-shards",),
                "final_sparsity": (0.5,),
                "seed": (0,),
            },
            rows=("global", "dispfl"),
        ),
        "paper": Preset("an hour on 2 cores"),
    },
    reference="global",
)


def _of_clients(statistic: str) -> Measure:
    """Returns a measure of the clients' accuracies after the last round."""

    def measure(line: Line) -> float:
        return float(line[f"client_accuracy_{statistic}"])

    return measure


def report(results: Results) -> Report:
    """Returns the global model's accuracy beside that of the clients' own."""
    content = Report()
    measures: dict[str, Measure] = {
        "of clients, mean": _of_clients("mean"),
        "of clients, worst tenth": _of_clients("worst_decile"),
        "of the global model": "final",
    }
    for panel in results.panels:
        for text, measure in measures.items():
            cell = markdown.value(results, measure)
            table: Any = markdown.by_sparsity(results, cell, dense=True, **panel.point)
            key = text.replace(",", "").replace(" ", "-")
            heading = f"Test accuracy in % {text}, last round, {panel.title}"
            content.add(f"{key}-{panel.key}", heading, table)
    return content

"""Exponent and frequency of the schedule, FedSparsify-Global at 95 %.

Claim (from the authors' code; what the paper prints is unknown): a larger exponent
prunes earlier and saves transmission; purging less often changes little.

    python -m experiments.run schedules

Expected: 72 runs, 25 minutes of 2 free cores. Savings 1.9, 3.4, 5.3 and 7.8 x for
the exponents 1, 3, 6 and 12 by arithmetic; 1 is the least accurate, for it purges as
hard in the last rounds as in the first, and 3 to 12 are close together.
"""

from experiments.lib import markdown
from experiments.lib.reporting import Report
from experiments.lib.results import Results, saving
from experiments.lib.table import Preset, Row, Table

TABLE = Table(
    name="schedules",
    title="FashionMNIST, 100 clients at 10 %: exponent x frequency",
    rows=(Row("fedsparsify-global", "Global", {"algorithm": "fedsparsify-global"}),),
    options={
        "dataset": "fashion_mnist",
        "num_clients": 100,
        "participation": 0.1,
        "final_sparsity": 0.95,
    },
    axes={
        "partition": ("iid", "label-shards"),
        "exponent": (1.0, 3.0, 6.0, 12.0),
        "frequency": (1, 2, 10),
        "seed": (0, 1, 2),
    },
    presets={
        "short": Preset("5 minutes on 2 cores", {"rounds": 40, "seed": (0, 1)}),
        "paper": Preset("25 minutes on 2 cores"),
    },
)


def report(results: Results) -> Report:
    """Returns accuracy and saving, exponents down and frequencies across."""
    report = Report()
    accuracy = markdown.value(results, "last_5")
    for panel in results.panels:
        report.add(
            f"last_5-{panel.key}",
            f"Test accuracy in %, mean of the last five rounds, {panel.title}",
            markdown.grid(results, accuracy, "exponent", "frequency", **panel.point),
        )

    def saved(row: str, **point: object) -> str:
        ratio = results.spread(row, saving, **point)
        return f"{ratio.mean:.2f} x" if ratio else markdown.EMPTY

    table = markdown.grid(results, saved, "exponent", "frequency")
    report.add("saving", "Times fewer bytes than dense", table)
    return report

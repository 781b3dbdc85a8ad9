"""FedSparsify's relatives: other ways to weights that can do without most of them.

Claim: none of the paper's. Powerpropagation, HALO and the straight-through estimators
make training itself push small weights away; here they do so under FedSparsify-Global's
schedule, beside it alone. UniPTS prunes a dense model after the last round, as OneShot
does before it. All have momentum 0.9, as the fair rows do.

    python -m experiments.run relatives --missing --runs DIR

Expected: 162 runs of its own, an hour of 2 free cores by the pace of fair_rows.
Settings are those that the authors recommend, where they carry over: the exponents are
SparsyFed's (1.25) and the least above 1 of Powerpropagation's notebook (2), the decay
is SR-STE's. HALO's weights are 100 times the authors', see ``algorithms/halo.py``. No
learning rate was tuned: all have the table's, 0.02.
"""

from experiments.lib import claims
from experiments.lib.reporting import Report, methods
from experiments.lib.results import Results
from experiments.lib.table import Preset, Row, Table
from experiments.tables import fair_rows


def _row(key: str, label: str, algorithm: str, **options: object) -> Row:
    return Row(key, label, {"algorithm": algorithm, "momentum": 0.9, **options})


_GLOBAL = "fedsparsify-global"

TABLE = Table(
    name="relatives",
    title="FashionMNIST, 100 clients at 10 %: relatives of FedSparsify",
    rows=(
        Row(
            "global",
            "FedSparsify-Global",
            {"algorithm": _GLOBAL, "momentum": 0.9},
            of="fedsparsify_plus",
        ),
        _row("powerprop-1.25", "Powerpropagation, 1.25", _GLOBAL, powerprop=1.25),
        _row(
            "powerprop-weights",
            "Powerpropagation, 1.25, mean of weights",
            _GLOBAL,
            powerprop=1.25,
            powerprop_average="weights",
        ),
        _row("powerprop-2", "Powerpropagation, 2", _GLOBAL, powerprop=2.0),
        _row("halo", "HALO", "halo"),
        _row("halo-averaged", "HALO, averaged", "halo", penalties="averaged"),
        _row("halo-closed", "HALO, closed form", "halo", penalties="closed-form"),
        _row("ste", "STE", "ste"),
        _row("sr-ste", "SR-STE", "ste", pruned_decay=2e-4),
        Row(
            "one-shot",
            "OneShot",
            {"algorithm": "one-shot", "momentum": 0.9},
            of="fair_rows",
        ),
        _row("unipts", "UniPTS after FedAvg", "unipts"),
    ),
    options=fair_rows.TABLE.options,
    axes=fair_rows.TABLE.axes,
    presets={
        "short": Preset(
            "15 minutes on 2 cores",
            {"rounds": 40, "final_sparsity": (0.95,), "seed": (0,)},
        ),
        "paper": Preset("1 hour on 2 cores"),
    },
    reference="global",
)


def report(results: Results) -> Report:
    """Returns the rows side by side, and Global against each of them."""
    content = methods(results)
    others = [row for row in results.rows if row != "global"]
    table = claims.against(results, "global", others, "Global ahead", "Global behind")
    content.add("claim-relatives", "Global against its relatives", table)
    return content

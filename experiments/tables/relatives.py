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
_CUT = {"mask_classes": "on"}

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
        # Other criteria, patterns and penalties of the purge.
        _row("movement", "Global by movement", _GLOBAL, criterion="movement"),
        _row("taylor", "Global by Taylor", _GLOBAL, criterion="taylor"),
        _row("fisher", "Global by Fisher", _GLOBAL, criterion="fisher"),
        _row("channel", "Global by channels", _GLOBAL, pattern="channel"),
        _row("feddip", "FedDIP", "feddip"),
        _row("sparsyfed", "SparsyFed", "sparsyfed"),
        # Masks from the first round on, which stay or move.
        _row("static", "Static ERK", "static"),
        _row("ssfl", "SSFL", "ssfl"),
        _row("rigl", "RigL, server", "rigl"),
        _row("rigl-clients", "RigL, clients", "rigl", adjusted_by="client"),
        _row("set", "SET, server", "rigl", growth="random"),
        _row("snfs", "SNFS, server", "rigl", growth="momentum"),
        _row("flash", "FLASH, SPDST", "flash"),
        _row("flash-jmwst", "FLASH, JMWST", "flash", stage_two="jmwst"),
        _row("fedtiny", "FedTiny", "fedtiny"),
        _row("fedtiny-pool", "FedTiny, 5 candidates", "fedtiny", candidates=5),
        _row("fedrts", "FedRTS", "fedrts"),
        # Gradient points, under Global's purge.
        _row("past", "Global, Extrap-SGD", _GLOBAL, gradient_point="past"),
        _row("sam", "Global, SAM", _GLOBAL, gradient_point="sam"),
        # Terms of their own: networks that grow, or are narrower on some clients, who
        # train without the classes that they lack, as both papers' non-IID ones do.
        _row("progfed", "ProgFed, dense", "progfed", final_sparsity=0.0),
        _row("progfed-sparse", "ProgFed with Global", "progfed"),
        _row("heterofl", "HeteroFL", "heterofl", **_CUT),
        _row("fedrolex", "FedRolex", "fedrolex", **_CUT),
        _row(
            "slimmable",
            "Slimmable, .8 to .99",
            "slimmable",
            levels="0.8,0.9,0.95,0.99",
            final_sparsity=0.8,
        ),
    ),
    options=fair_rows.TABLE.options,
    axes=fair_rows.TABLE.axes,
    presets={
        "short": Preset(
            "40 minutes on 2 cores",
            {"rounds": 40, "final_sparsity": (0.95,), "seed": (0,)},
        ),
        "paper": Preset("3 hours on 2 cores"),
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

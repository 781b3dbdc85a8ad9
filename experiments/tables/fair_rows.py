"""Baselines with the settings that they were made for, beside Global with the same.

Claim: none of the paper's. The main table gives every method the paper's optimizer,
plain SGD at 0.02, with which methods that are sparse from the first round are far from
trained after 200 rounds. Here all have momentum 0.9, as their authors had; Local's
clients have it fresh in every round and kept; FedProx has the larger of its usual mu;
SNIP and GraSP score on the whole cohort.

    python -m experiments.run fair_rows

Expected: 198 runs of its own, 50 minutes of 2 free cores.
"""

from experiments.lib import claims
from experiments.lib.reporting import Report, methods
from experiments.lib.results import Results
from experiments.lib.table import Preset, Row, Table
from experiments.tables import fashion_mnist

_MOMENTUM = {"momentum": 0.9}
_KEPT = {**_MOMENTUM, "optimizer_state": "kept"}


def _row(key: str, label: str, algorithm: str, **options: object) -> Row:
    return Row(key, label, {"algorithm": algorithm, **options})


TABLE = Table(
    name="fair_rows",
    title="FashionMNIST, 100 clients at 10 %: baselines with their own settings",
    rows=(
        Row(
            "momentum",
            "FedAvg, momentum .9",
            {"algorithm": "fedavg", **_MOMENTUM},
            of="fashion_mnist",
        ),
        _row("fedprox-01", "FedProx, mu .1", "fedprox", mu=0.1),
        _row("fedprox-1", "FedProx, mu 1", "fedprox", mu=1.0),
        Row(
            "global",
            "FedSparsify-Global",
            {"algorithm": "fedsparsify-global", **_MOMENTUM},
            of="fedsparsify_plus",
        ),
        _row("local", "FedSparsify-Local", "fedsparsify-local", **_MOMENTUM),
        _row(
            "local-kept", "FedSparsify-Local, kept state", "fedsparsify-local", **_KEPT
        ),
        _row("one-shot", "OneShot", "one-shot", **_MOMENTUM),
        _row("snip", "SNIP", "snip", **_MOMENTUM),
        _row("snip-cohort", "SNIP, cohort", "snip", source="cohort", **_MOMENTUM),
        _row("grasp", "GraSP", "grasp", **_MOMENTUM),
        _row("grasp-cohort", "GraSP, cohort", "grasp", source="cohort", **_MOMENTUM),
        _row("prunefl", "PruneFL", "prunefl", **_MOMENTUM),
        _row("feddst", "FedDST", "feddst", **_MOMENTUM),
    ),
    options=fashion_mnist.TABLE.options,
    axes={**fashion_mnist.TABLE.axes, "final_sparsity": (0.9, 0.95, 0.99)},
    presets={
        "short": Preset(
            "20 minutes on 2 cores",
            {"rounds": 40, "final_sparsity": (0.95,), "seed": (0,)},
        ),
        "paper": Preset("50 minutes on 2 cores"),
    },
    reference="global",
)


def report(results: Results) -> Report:
    """Returns the rows side by side, and Global against each of them."""
    content = methods(results)
    others = [row for row in results.rows if row not in ("global", "momentum")]
    table = claims.against(results, "global", others, "Global ahead", "Global behind")
    content.add("claim-fair", "Global against the baselines, all with momentum", table)
    return content

"""Large batches: LARS and gradient points under Global's purge.

Claim: none of the paper's. LARS and Extrap-SGD (arXiv 2006.05720) were made for batches
so large that an epoch has few steps. Here a client's epoch has 19 steps of 32 examples
or 2 of 512; with 512, SGD's learning rate is that of 32 times 16, and LARS has its
authors' momentum, decay and trust coefficient with the rate of docs/algorithms.md.

    python -m experiments.run large_batch --missing --runs DIR

Expected: 72 runs, 30 minutes of 2 free cores. No learning rate was tuned.
"""

from experiments.lib.reporting import Report, methods
from experiments.lib.results import Results
from experiments.lib.table import Preset, Row, Table
from experiments.tables import fashion_mnist

_LARGE = {"batch_size": 512, "learning_rate": 0.32}
_LARS = {
    "optimizer": "lars",
    "learning_rate": 10.0,
    "weight_decay": 5e-4,
    "trust_coefficient": 0.001,
}


def _row(key: str, label: str, **options: object) -> Row:
    return Row(key, label, {"algorithm": "fedsparsify-global", **options})


TABLE = Table(
    name="large_batch",
    title="FashionMNIST, 100 clients at 10 %: batches of 512",
    rows=(
        _row("sgd-32", "SGD, batch 32"),
        _row("sgd", "SGD", **_LARGE),
        _row("lars", "LARS", **_LARGE | _LARS),
        _row("past", "Extrap-SGD", **_LARGE, gradient_point="past"),
        _row("sam", "SAM", **_LARGE, gradient_point="sam"),
        _row("noise", "Extrap-noise", **_LARGE, gradient_point="noise"),
    ),
    options={**fashion_mnist.TABLE.options, "momentum": 0.9},
    axes={
        "partition": ("iid", "label-shards"),
        "final_sparsity": (0.0, 0.95),
        "seed": (0, 1, 2),
    },
    presets={
        "short": Preset(
            "4 minutes on 2 cores",
            {"rounds": 40, "final_sparsity": (0.95,), "seed": (0,)},
        ),
        "paper": Preset("30 minutes on 2 cores"),
    },
    reference="sgd-32",
)


def report(results: Results) -> Report:
    """Returns the optimizers side by side."""
    return methods(results)

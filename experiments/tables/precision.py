"""bfloat16 beside float32: whether training in half the bits changes what is learnt.

Claim: none of the paper's. With ``--precision bf16`` forward passes and gradients are
computed in bfloat16; parameters, masks, merges and purges stay float32. Curves of both
should be the same within noise.

    python -m experiments.run precision --missing --runs DIR
    python -m experiments.run precision_cifar --data-dir DIR

Expected: 12 runs of its own, the float32 rows are those of ``fashion_mnist``; 24 runs,
half an hour of 2 free cores, of the CIFAR-10 subset. CPUs have no bfloat16 and compute
it in float32 with roundings, which is slower and has the same results; what it saves on
accelerators is for ``benchmarks/accelerator.py``.
"""

import dataclasses

from experiments.lib.reporting import Report, methods
from experiments.lib.results import Results
from experiments.lib.table import Preset, Row, Table
from experiments.tables import fashion_mnist, second_edition


def _pair(key: str, label: str, algorithm: str) -> tuple[Row, Row]:
    """Returns the row of a method in float32, measured elsewhere, and in bfloat16."""
    options = {"algorithm": algorithm}
    half = {**options, "precision": "bf16"}
    return (
        Row(key, f"{label}, float32", options, of="fashion_mnist"),
        Row(f"{key}-bf16", f"{label}, bfloat16", half),
    )


TABLE = Table(
    name="precision",
    title="FashionMNIST, 100 clients at 10 %: bfloat16",
    rows=(
        *_pair("fedsparsify-global", "Global", "fedsparsify-global"),
        *_pair("fedavg", "FedAvg", "fedavg"),
    ),
    options=fashion_mnist.TABLE.options,
    axes={
        "partition": ("iid", "label-shards"),
        "final_sparsity": (0.95,),
        "seed": (0, 1, 2),
    },
    presets={
        "short": Preset("2 minutes on 2 cores", {"rounds": 40, "seed": (0,)}),
        "paper": Preset("10 minutes on 2 cores"),
    },
)


CIFAR = dataclasses.replace(
    TABLE,
    name="precision_cifar",
    title="CIFAR-10, 10,000 images, 100 clients at 10 %, MLP: bfloat16",
    rows=tuple(dataclasses.replace(row, of=None) for row in TABLE.rows),
    options=second_edition.CIFAR.options,
    presets={"paper": Preset("half an hour on 2 cores", {"rounds": 100})},
)
"""A subset of colour images; both precisions are run here."""


def report(results: Results) -> Report:
    """Returns both precisions side by side."""
    return methods(results)

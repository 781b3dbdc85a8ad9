"""bfloat16 beside float32: whether training in half the bits changes what is learnt.

Claim: none of the paper's. With ``--precision bf16`` forward passes and gradients are
computed in bfloat16; parameters, masks, merges and purges stay float32. Curves of both
should be the same within noise.

    python -m experiments.run precision --missing --runs DIR

Expected: 12 runs of its own, the float32 rows are those of ``fashion_mnist``. CPUs have
no bfloat16 and compute it in float32 with roundings, which is slower and has the same
results; what it saves on accelerators is for ``benchmarks/accelerator.py``.
"""

from experiments.lib.reporting import Report, methods
from experiments.lib.results import Results
from experiments.lib.table import Preset, Row, Table
from experiments.tables import fashion_mnist


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


def report(results: Results) -> Report:
    """Returns both precisions side by side."""
    return methods(results)

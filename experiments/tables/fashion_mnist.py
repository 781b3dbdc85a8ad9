"""FashionMNIST, 100 clients of which 10 take part in a round: all methods.

Claim (arXiv 2204.12430): models of a tenth of the size and less are as accurate as
dense ones and more accurate than those of other pruning methods; training moves three
times fewer bytes.

    python -m experiments.run fashion_mnist [--preset smoke|short|paper]

Expected: smoke under a minute, short ten minutes, paper an hour and a half of two free
cores (40 s of one core a run); an accelerator has not been tried. Expected figures
(paper, IID, mean of the last five rounds): Global 87 % at .8, 85 % at .95, 82 % at .99;
non-IID 70, 64 and 57 %. All that came out is in ``results/fashion_mnist-paper.md``.

A method is added with one `Row`; its options are those of ``fedsparsify train``.
"""

from experiments.lib import claims
from experiments.lib.reporting import Report, methods
from experiments.lib.results import Results
from experiments.lib.table import Preset, Row, Table

SPARSITIES = (0.8, 0.85, 0.9, 0.95, 0.99)

ROWS = (
    Row("fedavg", "FedAvg", {"algorithm": "fedavg"}),
    Row("momentum", "FedAvg, momentum .9", {"algorithm": "fedavg", "momentum": 0.9}),
    Row("fedprox", "FedProx", {"algorithm": "fedprox"}),
    Row(
        "fedsparsify-global", "FedSparsify-Global", {"algorithm": "fedsparsify-global"}
    ),
    Row("fedsparsify-local", "FedSparsify-Local", {"algorithm": "fedsparsify-local"}),
    Row("random", "Random", {"algorithm": "random-pruning"}),
    Row("one-shot", "OneShot", {"algorithm": "one-shot"}),
    Row("snip", "SNIP", {"algorithm": "snip"}),
    Row("grasp", "GraSP", {"algorithm": "grasp"}),
    Row(
        "grasp-all",
        "GraSP, all parameters",
        {"algorithm": "grasp", "prunable": "all"},
    ),
    Row("prunefl", "PruneFL", {"algorithm": "prunefl"}),
    Row("feddst", "FedDST", {"algorithm": "feddst"}),
)

TABLE = Table(
    name="fashion_mnist",
    title="FashionMNIST, 100 clients at 10 %: all methods",
    rows=ROWS,
    options={"dataset": "fashion_mnist", "num_clients": 100, "participation": 0.1},
    axes={
        "partition": ("iid", "label-shards"),
        "final_sparsity": SPARSITIES,
        "seed": (0, 1, 2),
    },
    presets={
        "smoke": Preset(
            "under a minute",
            {
                "rounds": 3,
                "local_epochs": 1,
                "final_sparsity": (0.9,),
                "seed": (0, 1),
            },
            rows=("fedavg", "fedsparsify-global"),
        ),
        "short": Preset(
            "10 minutes on 2 cores",
            {"rounds": 40, "final_sparsity": (0.9, 0.99), "seed": (0, 1)},
        ),
        "paper": Preset("1.5 hours on 2 cores"),
    },
    layers={"seed": 0, "final_sparsity": (0.95,)},
)


def report(results: Results) -> Report:
    """Returns the methods side by side, and the paper's claims."""
    content = methods(results)
    claims.add(content, results)
    return content

"""FashionMNIST, 10 clients, all of them in every round.

Claim: that of `fashion_mnist`, in the paper's other federation.

    python -m experiments.run fashion_mnist_10 [--preset short|paper]

Expected: paper 32 runs of 200 rounds, an hour and a half of 2 free cores. Global behind
dense as with 100 clients, but by less, and ahead of all baselines. One seed: no
intervals, nothing is marked as noise; ``seed`` is an axis to lengthen.
"""

from experiments.lib.table import Preset, Table
from experiments.tables import fashion_mnist

_CHOSEN = (
    "fedavg",
    "fedsparsify-global",
    "fedsparsify-local",
    "random",
    "one-shot",
    "snip",
)

TABLE = Table(
    name="fashion_mnist_10",
    title="FashionMNIST, 10 clients",
    rows=tuple(row for row in fashion_mnist.ROWS if row.key in _CHOSEN),
    options={"dataset": "fashion_mnist", "num_clients": 10},
    axes={
        "partition": ("iid", "label-shards"),
        "final_sparsity": (0.9, 0.95, 0.99),
        "seed": (0,),
    },
    presets={
        "short": Preset("20 minutes on 2 cores", {"rounds": 40}),
        "paper": Preset("1.5 hours on 2 cores"),
    },
    layers={"seed": 0, "final_sparsity": (0.95,)},
)

report = fashion_mnist.report

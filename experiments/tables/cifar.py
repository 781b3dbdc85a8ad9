"""CIFAR-10 with the six-convolution CNN, CIFAR-100 with VGG-16.

Claim: that of `fashion_mnist`, for convolutional networks; non-IID clients hold half
the classes.

    python -m experiments.run cifar10 --preset short --data-dir DIR
    python -m experiments.run cifar100 --preset short --data-dir DIR
    python -m experiments.run cifar10 --data-dir DIR      (an accelerator)
    python -m experiments.run cifar100 --data-dir DIR     (an accelerator)

Expected: CIFAR-10 short, 5,000 images and 30 rounds of one epoch: 6 runs, half an hour
of 2 free cores, accuracies of a network that has hardly begun to learn; CIFAR-100
short, 2,000 images and 10 rounds: 6 runs, as long, accuracies near chance. The paper's
presets are sized for an accelerator: a run of CIFAR-10 is 64 times the short one's
work, CIFAR-100's network is nine times larger. Neither has been run.
"""

from experiments.lib.reporting import methods
from experiments.lib.table import Preset, Table
from experiments.tables import fashion_mnist

# Momentum is these data sets' default already.
_ROWS = tuple(row for row in fashion_mnist.ROWS if row.key != "momentum")
_PARTITIONS = ("iid", "label-shards")
_SHORT = {"local_epochs": 1, "final_sparsity": (0.9,), "seed": (0,)}
_THREE = ("fedavg", "fedsparsify-global", "fedsparsify-local")

CIFAR10 = Table(
    name="cifar10",
    title="CIFAR-10, 10 clients, six convolutions",
    rows=_ROWS,
    options={"dataset": "cifar10", "num_clients": 10, "classes_per_client": 5},
    axes={
        "partition": _PARTITIONS,
        "final_sparsity": fashion_mnist.SPARSITIES,
        "seed": (0, 1, 2),
    },
    presets={
        "short": Preset(
            "30 minutes on 2 cores",
            {
                "train_subset": 5000,
                "rounds": 30,
                "evaluate_every": 5,
                **_SHORT,
            },
            rows=_THREE,
        ),
        "paper": Preset("for accelerators"),
    },
)

CIFAR100 = Table(
    name="cifar100",
    title="CIFAR-100, 10 clients, VGG-16",
    rows=_ROWS,
    options={"dataset": "cifar100", "num_clients": 10, "classes_per_client": 50},
    axes={
        "partition": _PARTITIONS,
        "final_sparsity": (0.9, 0.95, 0.99),
        "seed": (0, 1, 2),
    },
    presets={
        "short": Preset(
            "half an hour on 2 cores",
            {
                "train_subset": 2000,
                "rounds": 10,
                "evaluate_every": 10,
                **_SHORT,
            },
            rows=_THREE,
        ),
        "paper": Preset("for accelerators"),
    },
)

report = methods

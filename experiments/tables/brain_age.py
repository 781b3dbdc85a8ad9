"""Brain age from MRI, 8 sites, a 3D network: error in years.

Claim (arXiv 2208.11669): 95 % of the parameters can go without a loss, in uneven
federations too.

    python -m experiments.run brain_age --preset short --data-dir DIR
    python -m experiments.run brain_age --data-dir DIR    (an accelerator)

The volumes are UK Biobank's, which asks for an application; `data.brain_age` says how
they have to lie. Expected: paper, 40 rounds of 8,356 volumes, never run. Short, 64
volumes and 5 rounds of one epoch: 6 runs, 40 minutes of 2 free cores, and as long again
for every 500 volumes of the test set; it shows that the path works. Smaller is better:
the measure is the mean absolute error.
"""

from experiments.lib.reporting import methods
from experiments.lib.table import Preset, Table
from experiments.tables import fashion_mnist

TABLE = Table(
    name="brain_age",
    title="Brain age, 8 sites",
    metric="mae",
    rows=tuple(
        row
        for row in fashion_mnist.ROWS
        if row.key in ("fedavg", "fedsparsify-global", "fedsparsify-local")
    ),
    options={"dataset": "brain_age"},
    axes={
        "partition": ("iid", "value-skew"),
        "client_sizes": ("uniform", "skewed"),
        "final_sparsity": (0.85, 0.9, 0.95, 0.99),
        "seed": (0, 1, 2),
    },
    presets={
        "short": Preset(
            "40 minutes on 2 cores, and the test set",
            {
                "train_subset": 64,
                "rounds": 5,
                "local_epochs": 1,
                "evaluate_every": 5,
                "client_sizes": ("uniform",),
                "final_sparsity": (0.95,),
                "seed": (0,),
            },
        ),
        "paper": Preset("for accelerators"),
    },
)

report = methods

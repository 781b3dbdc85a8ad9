"""Membership inference against sparsity, in models of brain age: a regression.

Claim: that of `membership` (arXiv 2208.11669), whose authors attacked models of brain
age. Attacks are of an outsider with the final model: by loss, gradient norm and
gradients of the last layer. There are no shadow runs, each of which would cost as much
as the run that it stands beside.

    python -m experiments.run membership_brain_age --preset short --data-dir DIR
    python -m experiments.run membership_brain_age --data-dir DIR    (an accelerator)

The volumes are UK Biobank's, which asks for an application; `data.brain_age` says how
they have to lie. All of them are divided among 8 sites: nothing is made to overfit.
Smaller is better here, so "stopped as soon as it was as accurate" means the first dense
run whose mean absolute error is as low.

Expected: nothing is known, for neither preset has been run on real volumes; tests drive
``short`` with made-up ones. Paper, 66 runs of 2 to 80 rounds of 8,356 volumes; an audit
puts 2,000 volumes on the device at once, 7 GB as float32. Short, 64 volumes and 5
rounds of one epoch: 3 runs, to see that the path works.
"""

from experiments.lib.table import Preset, Table
from experiments.tables.membership import SPARSE, dense_rows, report

__all__ = ["TABLE", "report"]

TABLE = Table(
    name="membership_brain_age",
    title="Brain age, 8 sites: membership inference",
    metric="mae",
    rows=(*dense_rows((2, 5, 10, 20, 40, 80)), *SPARSE),
    options={"dataset": "brain_age", "rounds": 40},
    axes={
        "partition": ("iid",),
        "final_sparsity": (0.8, 0.9, 0.95, 0.99),
        "seed": (0, 1, 2),
    },
    presets={
        "short": Preset(
            "never run on real volumes",
            {
                "train_subset": 64,
                "rounds": 5,
                "local_epochs": 1,
                "evaluate_every": 5,
                "final_sparsity": (0.95,),
                "seed": (0,),
            },
            rows=("fedavg-2", "fedavg-5", "fedsparsify-global"),
        ),
        "paper": Preset("for accelerators, never run"),
    },
    audit={"shadow_runs": 0},
)

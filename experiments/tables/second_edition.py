"""The second edition of FedSparsify-Plus beside controls that have its help.

Claim, the goal that was set: with representative cohorts and a look-ahead the sparse
model is more accurate than FedSparsify-Global with the same momentum and average at 95
and 99 % on both partitions, and on two classes a client more accurate than the dense
model with these, for no more bytes. It came out so but for IID clients at 95 %
(docs/fedsparsify_plus.md). What is the method's, and what that of cohorts and
look-ahead, which every method can have, the helped controls tell apart. The best of
FedSparsify's relatives at 95 % (`relatives`) is beside it with the same momentum and
average.

    python -m experiments.run second_edition
    python -m experiments.run second_edition_digits
    python -m experiments.run second_edition_cifar --data-dir DIR

Expected: 170 runs, two hours of 2 free cores; digits 3 minutes, CIFAR-10 an hour and a
half. On CIFAR-10 it came out so at 99 % alone: at 90 and 95 % the second edition is
level with Global.
Everything was chosen on held-out training images (experiments/search.md) before the
first look at the test set; the relative's row and that without look-ahead came after
it, and chose nothing.
"""

import dataclasses

from experiments.lib import claims, multiple
from experiments.lib.reporting import Report, methods
from experiments.lib.results import Results
from experiments.lib.table import Preset, Row, Table
from experiments.tables import fashion_mnist

SECOND, CONTROL, DENSE, RELATIVE = "second", "control", "dense", "relative"
_EQUIPPED = {"momentum": 0.9, "server_ema": 0.9}
_COHORTS = {"cohort_sampling": "representative"}
_HELPED = {**_EQUIPPED, **_COHORTS, "server_lookahead": 0.5}
_DENSE, _GLOBAL = {"algorithm": "fedavg"}, {"algorithm": "fedsparsify-global"}

TABLE = Table(
    name="second_edition",
    title="FashionMNIST, 100 clients at 10 %: the second edition of FedSparsify-Plus",
    rows=(
        Row(DENSE, "FedAvg, momentum and average", {**_DENSE, **_EQUIPPED}),
        Row("dense-helped", "FedAvg, with all help", {**_DENSE, **_HELPED}),
        Row(CONTROL, "Global, momentum and average", {**_GLOBAL, **_EQUIPPED}),
        Row(
            "control-helped",
            "Global, with all help",
            {**_GLOBAL, **_HELPED},
        ),
        Row(
            SECOND,
            "FedSparsify-Plus, second edition",
            {"algorithm": "fedsparsify-plus", **_COHORTS},
        ),
        Row(
            "no-lookahead",
            "Second edition, no look-ahead",
            {"algorithm": "fedsparsify-plus", **_COHORTS, "server_lookahead": 0.0},
        ),
        Row(
            RELATIVE,
            "Powerpropagation, momentum and average",
            {
                **_GLOBAL,
                **_EQUIPPED,
                "powerprop": 1.25,
                "powerprop_average": "weights",
            },
        ),
    ),
    options=fashion_mnist.TABLE.options,
    axes={
        "partition": ("iid", "label-shards"),
        "final_sparsity": (0.9, 0.95, 0.99),
        "seed": (0, 1, 2, 3, 4),
    },
    presets={
        "short": Preset(
            "10 minutes on 2 cores",
            {"rounds": 40, "final_sparsity": (0.95,), "seed": (0, 1)},
        ),
        "paper": Preset("an hour on 2 cores"),
    },
    reference=CONTROL,
)

DIGITS = dataclasses.replace(
    TABLE,
    name="second_edition_digits",
    title="Digits, 50 clients at 10 %: the second edition, unchanged",
    options={"dataset": "digits", "num_clients": 50, "participation": 0.1},
    presets={"paper": Preset("2 minutes on 2 cores", {"rounds": 100})},
)
"""The same rows elsewhere: nothing was chosen on these data."""

CIFAR = dataclasses.replace(
    TABLE,
    name="second_edition_cifar",
    title="CIFAR-10, 10,000 images, 100 clients at 10 %, MLP: the second edition",
    options={
        "dataset": "cifar10",
        "train_subset": 10_000,
        "model": "mlp",
        "num_clients": 100,
        "participation": 0.1,
    },
    presets={
        "paper": Preset("90 minutes on 2 cores", {"rounds": 100, "seed": (0, 1, 2)})
    },
)
"""A subset of colour images, where an MLP is no good model but a quick one."""


def report(results: Results) -> Report:
    """Returns all rows side by side, and what the headline says, corrected by Holm."""
    content = methods(results)
    for row in results.rows:
        if row != SECOND:
            content.add(
                f"claim-{row}",
                f"Second edition against: {results.label(row)} ({row})",
                claims.against(results, SECOND, [row], "ahead", "behind"),
            )
    content.add(
        "holm",
        "The second edition against control, relative and dense model, by Holm",
        multiple.headline(results, SECOND, [CONTROL, RELATIVE, DENSE]),
    )
    return content

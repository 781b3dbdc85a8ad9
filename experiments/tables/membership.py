"""Membership inference against sparsity: does a sparse model betray less of its data?

Claim (arXiv 2208.11669, "Towards Sparsified Federated Neuroimaging Models"): pruning
makes membership inference less successful. The attacks are those of ``fedsparsify
audit``, of an outsider with the final model; LiRA has 16 shadow runs.

    python -m experiments.run membership
    python -m experiments.run membership_cifar10 --data-dir DIR

Brain age, a regression, is in `membership_brain_age`.

The setting overfits on purpose, as small hospitals' data do: 1,000 images at 10
clients, 40 rounds of 4 epochs with momentum .9. A sparse model fits less, and a model
that fits less betrays less, sparse or not. So every sparse model is compared twice:
with the dense model after as many rounds, and with the dense model that was stopped as
soon as it was as accurate, interpolated between dense runs of 5 to 80 rounds. Only
where it betrays less than the second one does sparsity itself protect.

Expected: 69 runs and their audits, an hour and a half of 2 free cores. CIFAR-10's
network has convolutions, whose shadow runs train one after another: its attacks are
those without. The images are not augmented, so that there is something to memorise.
``short`` has the MLP in place of the network, 21 runs. ``cnn`` has the network, 500
images and at most 20 rounds, which is too little for it to learn anything: accuracies
near chance, AUC of one half. ``paper`` is sized for accelerators and was not run.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.lib import figures, markdown
from experiments.lib.reporting import Report
from experiments.lib.results import Measure, Results, of_attack
from experiments.lib.table import Preset, Row, Table
from fedsparsify_jax.report import charts, lines
from fedsparsify_jax.report.results import Difference, paired

_ROUNDS = (5, 10, 15, 20, 30, 40, 80)
_DENSE = "fedavg-{}"
_ATTACKS = {
    "lira-online": "LiRA, online",
    "lira-offline": "LiRA, offline",
    "loss": "loss",
    "gradient": "gradient norm",
    "layer": "gradients of the last layer",
}


def dense_rows(rounds: Sequence[int]) -> tuple[Row, ...]:
    """Returns a dense row for each number of rounds, shortest first."""
    return tuple(
        Row(
            _DENSE.format(number),
            f"dense, {number} rounds",
            {"algorithm": "fedavg", "rounds": number},
        )
        for number in sorted(rounds)
    )


SPARSE = (
    Row("fedsparsify-global", "Global", {"algorithm": "fedsparsify-global"}),
    Row("fedsparsify-local", "Local", {"algorithm": "fedsparsify-local"}),
    Row("snip", "SNIP", {"algorithm": "snip"}),
    Row("one-shot", "OneShot", {"algorithm": "one-shot"}),
)
_ROWS = (*dense_rows(_ROUNDS), *SPARSE)
_OPTIONS = {"num_clients": 10, "train_subset": 1000, "rounds": 40, "momentum": 0.9}
_AXES = {
    "partition": ("iid",),
    "final_sparsity": (0.8, 0.9, 0.95, 0.99),
    "seed": (0, 1, 2),
}

TABLE = Table(
    name="membership",
    title="FashionMNIST, 1,000 images at 10 clients: membership inference",
    rows=_ROWS,
    options={"dataset": "fashion_mnist", **_OPTIONS},
    axes=_AXES,
    presets={
        "smoke": Preset(
            "2 minutes",
            {
                "train_subset": 100,
                "local_epochs": 1,
                "final_sparsity": (0.9,),
                "seed": (0,),
            },
            rows=("fedavg-5", "fedavg-40", "fedsparsify-global"),
        ),
        "paper": Preset("an hour and a half on 2 cores"),
    },
    audit={"shadow_runs": 16},
)

CIFAR10 = Table(
    name="membership_cifar10",
    title="CIFAR-10, a few images at 10 clients: membership inference",
    rows=_ROWS,
    options={"dataset": "cifar10", "augmentation": "off", **_OPTIONS},
    axes=_AXES,
    presets={
        "short": Preset(
            "10 minutes on 2 cores",
            {"model": "mlp", "final_sparsity": (0.9, 0.95, 0.99)},
            rows=(*map(_DENSE.format, (5, 10, 20, 40)), "fedsparsify-global"),
        ),
        "cnn": Preset(
            "45 minutes on 2 cores",
            {
                "augmentation": "on",
                "train_subset": 500,
                "rounds": 20,
                "final_sparsity": (0.9, 0.99),
                "seed": (0,),
            },
            rows=(*map(_DENSE.format, (5, 10, 20)), "fedsparsify-global"),
        ),
        "paper": Preset("for accelerators"),
    },
    audit={"shadow_runs": 0},
)


def _dense_rows(results: Results) -> list[str]:
    """Returns the rows of `dense_rows` that are there, in their order."""
    return [row for row in results.rows if results.dense(row)]


def dense_at(results: Results, accuracy: pd.Series, measure: Measure) -> pd.Series:
    """Returns a measure of dense models that were stopped at some accuracies.

    Args:
      results: of a table with `dense_rows`.
      accuracy: test accuracies by seed, or errors where the table has these.
      measure: of the dense runs.

    Returns:
      By seed, on the straight line between the last dense run that is less accurate
      and the first one that is not; NaN where there are no two such runs.
    """
    rows = _dense_rows(results)
    reached = pd.DataFrame({row: results.values(row, "final") for row in rows})
    measured = pd.DataFrame({row: results.values(row, measure) for row in rows})
    # An error falls while a model learns: turned over, it rises as accuracy does.
    upwards = -1 if results.metric == "mae" else 1
    return pd.Series(
        {
            seed: _crossing(
                upwards * reached.loc[seed], measured.loc[seed], upwards * wanted
            )
            for seed, wanted in accuracy.items()
            if seed in reached.index and seed in measured.index
        },
        dtype=float,
    )


def _crossing(reached: pd.Series, measured: pd.Series, wanted: float) -> float:
    """Returns where a line through points, in their order, first has a height.

    >>> heights, measured = pd.Series([0.5, 0.7, 0.6]), pd.Series([1.0, 2.0, 9.0])
    >>> _crossing(heights, measured, 0.6), _crossing(heights, measured, 0.8)
    (1.5, nan)
    """
    both = pd.concat([reached, measured], axis=1).dropna().to_numpy()
    for before, after in itertools.pairwise(both):
        if before[0] < wanted <= after[0]:
            share = (wanted - before[0]) / (after[0] - before[0])
            return float(before[1] + share * (after[1] - before[1]))
    return float("nan")


Gap = Callable[..., Difference | None]


def _rounds(results: Results) -> int:
    """Returns how long sparse models are trained."""
    (rounds,) = results.axis("rounds")
    return int(rounds)


def _judged(results: Results) -> str:
    """Returns the word for what says how good a model is."""
    return "accuracy" if results.metric == "accuracy" else "error"


def equal_rounds(results: Results, measure: Measure) -> Gap:
    """Builds differences from the dense model after as many rounds."""
    dense = _DENSE.format(_rounds(results))

    def gap(row: str, **point: Any) -> Difference | None:
        return results.difference(row, measure, of=dense, **point)

    return gap


def equal_accuracy(results: Results, measure: Measure) -> Gap:
    """Builds differences from the dense model that was stopped as accurate."""

    def gap(row: str, **point: Any) -> Difference | None:
        accuracy = results.values(row, "final", **point)
        others = dense_at(results, accuracy, measure)
        return paired(results.values(row, measure, **point), others)

    return gap


def _cell(gap: Gap) -> markdown.Cell:
    def cell(row: str, **point: Any) -> str:
        difference = gap(row, **point)
        return markdown.EMPTY if difference is None else difference.text()

    return cell


def verdict(results: Results, measure: Measure) -> str:
    """Returns in how many places sparse models leak less than dense ones, by count."""
    counts = []
    rows = [row for row in results.rows if not results.dense(row)]
    for name, gap in (
        ("after as many rounds", equal_rounds(results, measure)),
        (f"of the same {_judged(results)}", equal_accuracy(results, measure)),
    ):
        gaps = [
            gap(row, final_sparsity=sparsity)
            for row in rows
            for sparsity in results.axis("final_sparsity")
        ]
        known = [g for g in gaps if g is not None and g.half is not None]
        less = sum(g.mean < 0 and not g.noise for g in known)
        more = sum(g.mean > 0 and not g.noise for g in known)
        counts.append(
            f"* Against the dense model {name}: lower in {less} of {len(gaps)} places, "
            f"higher in {more}, the same within noise in {len(known) - less - more}, "
            f"not comparable in {len(gaps) - len(known)}."
        )
    return "\n".join(counts)


def _percent(results: Results, measure: Measure) -> markdown.Cell:
    """Returns cells of shares, in percent whatever the table's metric is."""
    return markdown.value(results, measure, scale=100.0)


def report(results: Results) -> Report:
    """Returns accuracy, success of attacks, and both comparisons with dense models."""
    report = Report()
    value = markdown.value(results, "final")
    heading = f"Test {lines.measure(results.metric)[1]} of the attacked models in "
    heading += "%" if results.metric == "accuracy" else "years"
    report.add("accuracy", heading, markdown.by_sparsity(results, value, dense=True))
    attacks = _ATTACKS
    if not results.table.audit or not results.table.audit["shadow_runs"]:
        attacks = {n: text for n, text in attacks.items() if "lira" not in n}
    rows = [row for row in results.rows if not results.dense(row)]
    for name, text in attacks.items():
        auc = of_attack(name)
        table = markdown.by_sparsity(results, _percent(results, auc), dense=True)
        report.add(f"auc-{name}", f"AUC in %, {text}", table)
    first = next(iter(attacks))
    for fpr in ("0.001", "0.01"):
        rate = _percent(results, of_attack(first, "tpr", fpr))
        table = markdown.by_sparsity(results, rate, dense=True)
        heading = f"TPR in % at {100 * float(fpr):g} % FPR, {attacks[first]}"
        report.add(f"tpr-{fpr}", heading, table)
    for key, which, of in (
        ("rounds", f"after {_rounds(results)} rounds", equal_rounds),
        ("accuracy", f"of equal {_judged(results)}", equal_accuracy),
    ):
        cell = _cell(of(results, of_attack(first)))
        heading = f"AUC minus that of the dense model {which}, {attacks[first]}"
        table = markdown.by_sparsity(results, cell, rows, head="points")
        report.add(f"equal-{key}", heading, table)
    heading = f"Whether sparse models betray less, {attacks[first]}"
    report.add("claim-privacy", heading, verdict(results, of_attack(first)))
    if results.lines:
        report.figures["auc-accuracy"] = _figure(results, first, attacks[first])
    return report


def _figure(results: Results, attack: str, text: str) -> str:
    """Returns AUC against accuracy or error: dense by rounds, others by sparsity."""

    def point(row: str, **place: Any) -> tuple[float, float] | None:
        both = [
            results.spread(row, measure, **place)
            for measure in ("final", of_attack(attack))
        ]
        return (both[0].mean, both[1].mean) if both[0] and both[1] else None

    dense = [point(row) for row in _dense_rows(results)]
    curves = {"dense": dense}
    for row in results.rows:
        if not results.dense(row):
            sparsities = results.axis("final_sparsity")
            curves[results.label(row)] = [
                point(row, final_sparsity=s) for s in sparsities
            ]
    series = [
        charts.Series(label, tone, points, marks=True)
        for tone, (label, line) in enumerate(curves.items())
        if (points := [place for place in line if place and not np.isnan(place[1])])
    ]
    title = "dense by rounds, others by sparsity"
    kind, name = lines.measure(results.metric)
    axes = (f"test {name}", kind), (f"AUC, {text}", "percent")
    return figures.charts([(title, series)], *axes)

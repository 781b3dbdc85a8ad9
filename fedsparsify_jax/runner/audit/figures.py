"""The figures of an audit: measures with intervals, curves, and what is left out."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedsparsify_jax import text_table
from fedsparsify_jax.privacy import summarize
from fedsparsify_jax.privacy.curves import FPRS, Interval, roc
from fedsparsify_jax.runner.audit.attacks import Result


def measured(result: Result, seed: int) -> dict[str, Any]:
    """Returns the measures of an attack as JSON values.

    The TPR at an FPR is None where fewer others were asked about than one of them is a
    share of: it would be that at an FPR of 0.

    Args:
      result: of the attack.
      seed: of the bootstrap.
    """
    members, others = int(result.members.sum()), int((~result.members).sum())
    summary = summarize(result.scores, result.members, seed=seed)
    tpr = {
        f"{fpr:g}": _interval(summary.tpr[fpr]) if resolves(others, fpr) else None
        for fpr in FPRS
    }
    return {
        "about": result.about,
        "members": members,
        "others": others,
        "auc": _interval(summary.auc),
        "advantage": _interval(summary.advantage),
        "tpr": tpr,
    }


def _interval(interval: Interval) -> dict[str, float]:
    return {name: round(value, 6) for name, value in interval._asdict().items()}


def resolves(others: int, fpr: float) -> bool:
    """Returns whether one of the others is at most such a share of them.

    >>> resolves(1000, 0.001), resolves(999, 0.001)
    (True, False)
    """
    return others * fpr >= 1 - 1e-9


def too_few(attacks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns sentences about rates that there are too few others for."""
    sentences = []
    for fpr in FPRS:
        short = {
            n: a["others"] for n, a in attacks.items() if a["tpr"][f"{fpr:g}"] is None
        }
        if short:
            had = ", ".join(f"{name} {number:,}" for name, number in short.items())
            sentences.append(
                f"TPR at {100 * fpr:g} % FPR needs at least {round(1 / fpr):,} "
                f"non-members, so it is left out ({had}): give more --examples, if the "
                "data have them"
            )
    return sentences


def curves(results: Mapping[str, Result]) -> dict[str, np.ndarray]:
    """Returns the arrays of ``roc.npz``: ``ATTACK/fpr`` and ``ATTACK/tpr``."""
    arrays: dict[str, np.ndarray] = {}
    for name, result in results.items():
        curve = roc(result.scores, result.members)
        arrays |= {f"{name}/fpr": curve.fpr, f"{name}/tpr": curve.tpr}
    return arrays


def cell(interval: Mapping[str, float] | None) -> str:
    """Returns a measure and its interval for people.

    >>> cell({"estimate": 0.5, "low": 0.4371, "high": 0.5629}), cell(None)
    ('0.500 [0.437, 0.563]', 'too few')
    """
    if interval is None:
        return "too few"
    return "{estimate:.3f} [{low:.3f}, {high:.3f}]".format(**interval)


def rows(attacks: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of the table of an audit."""
    head = ["attack", "AUC", "advantage"]
    head += [f"TPR at {100 * fpr:g} % FPR" for fpr in FPRS]
    return head, [
        [
            name,
            cell(measures["auc"]),
            cell(measures["advantage"]),
            *map(cell, measures["tpr"].values()),
        ]
        for name, measures in attacks.items()
    ]


def table(attacks: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table of an audit for a terminal."""
    head, body = rows(attacks)
    return text_table.aligned(head, body)

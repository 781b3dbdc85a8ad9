"""Figures of an audit against measures worked out by hand."""

import numpy as np
import pytest

from fedsparsify_jax.runner.audit import figures
from fedsparsify_jax.runner.audit.attacks import Result


def result(members, others):
    """Every member is above every other one."""
    scores = np.concatenate([np.full(members, 1.0), np.zeros(others)])
    return Result(scores, np.arange(members + others) < members, "by hand")


def test_a_perfect_attack_has_perfect_figures():
    measures = figures.measured(result(5, 1000), seed=0)
    certain = {"estimate": 1.0, "low": 1.0, "high": 1.0}
    assert measures["auc"] == measures["advantage"] == certain
    assert measures["tpr"] == {"0.001": certain, "0.01": certain}
    assert (measures["members"], measures["others"]) == (5, 1000)


@pytest.mark.parametrize(
    ("others", "missing"), [(1000, []), (999, ["0.001"]), (99, ["0.001", "0.01"])]
)
def test_a_rate_that_is_below_one_example_is_left_out_and_said(others, missing):
    attacks = {"loss": figures.measured(result(5, others), seed=0)}
    left_out = [rate for rate, value in attacks["loss"]["tpr"].items() if value is None]
    assert left_out == missing
    sentences = figures.too_few(attacks)
    assert len(sentences) == len(missing)
    for sentence in sentences:
        assert "needs at least 1" in sentence and f"(loss {others})" in sentence


def test_the_table_has_a_row_an_attack():
    attacks = {"loss": figures.measured(result(5, 100), seed=0)}
    head, row = figures.table(attacks).splitlines()
    assert head.split("  ")[0] == "attack" and "TPR at 0.1 % FPR" in head
    assert row.split()[:4] == ["loss", "1.000", "[1.000,", "1.000]"]
    assert "too few" in row


def test_curves_go_from_corner_to_corner():
    arrays = figures.curves({"loss": result(2, 4)})
    assert arrays["loss/fpr"].tolist() == [0.0, 0.0, 1.0]
    assert arrays["loss/tpr"].tolist() == [0.0, 1.0, 1.0]

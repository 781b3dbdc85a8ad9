"""Curves and their measures against definitions written as loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.privacy import curves

TIED = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


def split(inside, outside):
    scores = np.array([*inside, *outside], float)
    return scores, np.arange(len(scores)) < len(inside)


def pairs_won(inside, outside):
    """The share of pairs in which the member is above, ties counting one half."""
    won = sum((a > b) + 0.5 * (a == b) for a in inside for b in outside)
    return won / (len(inside) * len(outside))


def rates_at(threshold, inside, outside):
    share = lambda side: sum(score >= threshold for score in side) / len(side)
    return share(outside), share(inside)


@given(TIED, TIED)
def test_auc_is_the_share_of_pairs_in_which_the_member_is_above(inside, outside):
    expected = pairs_won(inside, outside)
    assert curves.auc(*split(inside, outside)) == pytest.approx(expected, abs=1e-12)


@given(TIED, TIED, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
def test_measures_are_the_best_over_all_thresholds(inside, outside, limit):
    data = split(inside, outside)
    thresholds = [math.inf, *inside, *outside]
    rates = [rates_at(t, inside, outside) for t in thresholds]
    advantage = max(tpr - fpr for fpr, tpr in rates)
    reached = max(tpr for fpr, tpr in rates if fpr <= limit)
    assert curves.advantage(*data) == pytest.approx(advantage, abs=1e-12)
    assert curves.tpr_at(*data, limit) == pytest.approx(reached, abs=1e-12)


def test_the_curve_goes_through_the_rates_of_every_threshold():
    inside, outside = [5.0, 3.0, 3.0, -np.inf], [3.0, 1.0]
    curve = curves.roc(*split(inside, outside))
    assert curve.thresholds.tolist() == [np.inf, 5.0, 3.0, 1.0, -np.inf]
    rates = [rates_at(t, inside, outside) for t in curve.thresholds]
    np.testing.assert_allclose(np.stack([curve.fpr, curve.tpr], axis=1), rates)


def test_estimates_of_a_summary_are_the_single_measures():
    rng = np.random.default_rng(0)
    scores, members = rng.normal(size=400), rng.random(400) < 0.5
    scores[members] += 0.7
    summary = curves.summarize(scores, members, resamples=50)
    assert summary.auc.estimate == pytest.approx(curves.auc(scores, members))
    assert summary.advantage.estimate == curves.advantage(scores, members)
    for rate in (0.001, 0.01):
        assert summary.tpr[rate].estimate == curves.tpr_at(scores, members, rate)
    for interval in (summary.auc, summary.advantage, *summary.tpr.values()):
        assert interval.low <= interval.estimate <= interval.high


def test_intervals_are_those_of_resamples_drawn_one_by_one():
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(0.5, 1, 60), rng.normal(0, 1, 40)
    summary = curves.summarize(*split(inside, outside), resamples=4000, seed=3)
    drawn = [
        pairs_won(rng.choice(inside, 60), rng.choice(outside, 40)) for _ in range(300)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert summary.auc.low == pytest.approx(low, abs=0.02)
    assert summary.auc.high == pytest.approx(high, abs=0.02)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Scores without any difference: .5 is outside 95 % intervals in 5 % of trials."""
    outside = 0
    for seed in range(200):
        scores = np.random.default_rng(seed).normal(size=200)
        summary = curves.summarize(scores, np.arange(200) < 100, resamples=200)
        outside += not summary.auc.low <= 0.5 <= summary.auc.high
    assert 2 <= outside <= 24


def test_the_same_seed_draws_the_same():
    scores, members = np.arange(30.0), np.arange(30) % 3 == 0
    first = curves.summarize(scores, members, seed=5)
    assert curves.summarize(scores, members, seed=5) == first
    assert curves.summarize(scores, members, seed=6) != first


@pytest.mark.parametrize(
    ("scores", "members", "message"),
    [
        ([1.0, np.nan], [True, False], "1 of 2 scores are NaN"),
        ([1.0, 2.0], [True, True], "2 of 2 examples are members"),
        ([1.0, 2.0], [False, False], "0 of 2 examples are members"),
        ([1.0, 2.0], [1, 0], "one bool an example"),
        ([[1.0, 2.0]], [[True, False]], "one score and one bool"),
    ],
)
def test_what_has_no_curve_is_refused(scores, members, message):
    with pytest.raises(InputError, match=message):
        curves.auc(np.array(scores), np.array(members))


def test_rates_and_confidences_out_of_range_are_refused():
    data = split([1.0], [0.0])
    for options in ({"fprs": (1.5,)}, {"resamples": 0}, {"confidence": 1.0}):
        with pytest.raises(InputError, match="must be"):
            curves.summarize(*data, **options)
    with pytest.raises(InputError, match="fpr is -1"):
        curves.tpr_at(*data, -1)


def test_the_auditor_of_jax_privacy_takes_the_convex_hull_of_this_curve():
    """It mixes thresholds at random: never below the plain curve, equal if concave."""
    auditing = pytest.importorskip("jax_privacy.auditing")
    rng = np.random.default_rng(2)
    inside, outside = rng.normal(1, 1, 150), rng.normal(0, 1, 120)
    data = split(inside, outside)
    auditor = auditing.CanaryScoreAuditor(inside, outside)
    curve = curves.roc(*data)
    hull = upper_hull(np.stack([curve.fpr, curve.tpr], axis=1))
    area = np.sum(np.diff(hull[:, 0]) * (hull[1:, 1] + hull[:-1, 1]) / 2)
    assert auditor.attack_auroc() == pytest.approx(area, abs=1e-12)
    assert auditor.attack_auroc() > curves.auc(*data)
    for rate in (0.01, 0.1):
        mixed = np.interp(rate, hull[:, 0], hull[:, 1])
        assert auditor.tpr_at_given_fpr(rate) == pytest.approx(mixed)
        assert mixed >= curves.tpr_at(*data, rate)
    concave = split([3.0, 1.0], [1.0, 0.0])
    auditor = auditing.CanaryScoreAuditor([3.0, 1.0], [1.0, 0.0])
    assert auditor.attack_auroc() == pytest.approx(curves.auc(*concave))


def upper_hull(points):
    """The upper convex hull of points from left to right."""
    hull = []
    for x, y in points:
        while len(hull) > 1:
            (a, b), (c, d) = hull[-2:]
            if (c - a) * (y - b) < (x - a) * (d - b):
                break
            hull.pop()
        hull.append((x, y))
    ends = {}
    for x, y in hull:
        ends.setdefault(x, []).append(y)
    return np.array([(x, y) for x, ys in ends.items() for y in (min(ys), max(ys))])

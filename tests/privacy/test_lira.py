"""LiRA against a rendering in loops, and on data that it can tell apart."""

import math
import statistics

import numpy as np
import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.privacy import lira
from fedsparsify_jax.privacy.curves import auc, summarize


def shadows(seed, models=16, examples=7, copies=3):
    rng = np.random.default_rng(seed)
    members = np.array(
        [rng.permutation(np.arange(models) % 2 == 0) for _ in range(examples)]
    ).T
    scores = rng.normal(size=(models, examples, copies)) + 2.0 * members[:, :, None]
    return scores, members, rng.normal(size=(examples, copies))


def log_normal(x, centre, spread):
    density = math.exp(-(((x - centre) / spread) ** 2) / 2)
    return math.log(density / (spread * math.sqrt(2 * math.pi)))


def spread_of_all(scores, members, side):
    """The root of the mean variance of an example's scores on one side."""
    variances = []
    for j in range(scores.shape[1]):
        for a in range(scores.shape[2]):
            chosen = [
                s[j, a] for s, m in zip(scores, members, strict=True) if m[j] == side
            ]
            variances.append(statistics.pvariance(chosen))
    return math.sqrt(statistics.fmean(variances))


def by_loops(scores, members, target, variance, with_in):
    """Online or offline LiRA, one number after another."""
    together = {side: spread_of_all(scores, members, side) for side in (True, False)}
    if with_in:
        both = math.sqrt((together[True] ** 2 + together[False] ** 2) / 2)
        together = {True: both, False: both}
    results = []
    for j in range(scores.shape[1]):
        copies = []
        for a in range(scores.shape[2]):
            logs = {}
            for side in (True, False):
                chosen = [
                    scores[s, j, a] for s in range(len(scores)) if members[s, j] == side
                ]
                spread = together[side]
                if variance == "example":
                    spread = statistics.pstdev(chosen)
                centre = statistics.median(chosen)
                logs[side] = log_normal(target[j, a], centre, spread)
            copies.append(logs[True] - logs[False] if with_in else -logs[False])
        results.append(statistics.fmean(copies))
    return results


@pytest.mark.parametrize("variance", ["example", "global"])
@pytest.mark.parametrize("seed", range(5))
def test_lira_is_the_formula_written_as_loops(seed, variance):
    data = shadows(seed)
    np.testing.assert_allclose(
        lira.online(*data, variance=variance),
        by_loops(*data, variance, True),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        lira.offline(*data, variance=variance),
        by_loops(*data, variance, False),
        atol=1e-6,
    )


def test_examples_may_be_in_different_numbers_of_models():
    scores, members, target = shadows(9)
    members[:5, 0] = True
    assert len(set(members.sum(axis=0))) > 1
    np.testing.assert_allclose(
        lira.online(scores, members, target),
        by_loops(scores, members, target, "example", True),
        atol=1e-6,
    )


def test_one_copy_needs_no_axis_of_copies():
    scores, members, target = shadows(1, copies=1)
    np.testing.assert_array_equal(
        lira.online(scores[:, :, 0], members, target[:, 0]),
        lira.online(scores, members, target),
    )


def test_the_one_sided_score_has_the_order_of_the_papers_probability():
    scores, members, target = shadows(2, copies=1)
    outside = [scores[~members[:, j], j, 0] for j in range(members.shape[1])]
    expected = [
        0.5 * (1 + math.erf((t - np.median(o)) / (np.std(o) * math.sqrt(2))))
        for t, o in zip(target[:, 0], outside, strict=True)
    ]
    scored = lira.offline(scores, members, target, one_sided=True)
    assert np.argsort(scored).tolist() == np.argsort(expected).tolist()


def memorising(examples, models, gap, seed=0):
    """Scores of examples of unequal difficulty, ``gap`` larger for members."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 10, examples)
    members = rng.random((models, examples)) < 0.5
    noise = rng.normal(size=members.shape)
    return difficulty[None] + noise + gap * members, members


@pytest.mark.parametrize("variance", ["example", "global"])
def test_lira_finds_members_that_one_threshold_does_not(variance):
    scores, members = memorising(400, 33, gap=4.0)
    data = (scores[1:], members[1:], scores[0])
    assert auc(scores[0], members[0]) < 0.7
    assert auc(lira.online(*data, variance=variance), members[0]) > 0.95
    one_sided = lira.offline(*data, variance=variance, one_sided=True)
    assert auc(one_sided, members[0]) > 0.95
    two_sided = lira.offline(*data, variance=variance)
    assert auc(two_sided, members[0]) > 0.9


@pytest.mark.parametrize("variance", ["example", "global"])
@pytest.mark.parametrize("attack", [lira.online, lira.offline])
def test_lira_finds_nothing_where_nothing_is_memorised(attack, variance):
    """One trial in twenty may miss .5; over forty trials the mean may not."""
    areas, missed = [], 0
    for seed in range(40):
        scores, members = memorising(200, 9, gap=0.0, seed=seed)
        # Every example is in for four shadow models and out for four.
        inside = np.random.default_rng(seed).permuted(
            np.repeat(np.arange(8)[:, None] < 4, 200, axis=1), axis=0
        )
        result = attack(scores[1:], inside, scores[0], variance=variance)
        interval = summarize(result, members[0], resamples=200).auc
        areas.append(interval.estimate)
        missed += not interval.low <= 0.5 <= interval.high
    assert missed <= 6
    assert abs(np.mean(areas) - 0.5) < 3 * np.std(areas) / np.sqrt(40)


def test_what_lira_cannot_fit_is_refused():
    scores, members, target = shadows(3, models=4)
    for changed, message in [
        ((scores, members | True, target), "example 0 is out for 0 of 4"),
        ((scores, members, target[:3]), r"must be \[S, n\]"),
        ((scores, members.astype(int), target), r"bool \[S, n\]"),
        ((scores * np.nan, members, target), "finite"),
        ((scores * 0, members, target), "the same score"),
    ]:
        with pytest.raises(InputError, match=message):
            lira.online(*changed)
    with pytest.raises(InputError, match="variance is 'fixed'"):
        lira.offline(scores, members, target, variance="fixed")
    one_out = members.copy()
    one_out[:, 0] = [True, True, True, False]
    with pytest.raises(InputError, match="out for 1 of 4 shadow models: it needs 2"):
        lira.offline(scores, one_out, target)
    assert lira.offline(scores, one_out, target, variance="global").shape == (7,)

"""Measures of a membership attack: ROC curve, AUC, advantage, TPR at a small FPR.

An attack gives every example a score that is larger for those it takes for members. At
a threshold, TPR is the share of members at or above it and FPR that of non-members.

The definitions are those of the literature, and NumPy in float64 is all they need:

* AUC is the probability that a member's score is above a non-member's, ties counting
  one half (Mann and Whitney);
* advantage is the largest TPR - FPR (Yeom et al., arXiv 1709.01604, definition 4);
* TPR at an FPR is that of the largest threshold set whose FPR does not exceed it, with
  no interpolation, as Carlini et al. (arXiv 2112.03570) report it. Their code asks for
  an FPR strictly below, which differs where a threshold meets the FPR exactly.

Intervals are percentiles of a bootstrap that draws members and non-members apart. They
cover which examples were drawn, not which models were trained: several seeds of the
training are needed for that.

``jax_privacy.auditing.CanaryScoreAuditor`` measures the same and is not used, because
it answers another question. It lets the attacker mix two thresholds at random, so its
AUC and TPR are those of the upper convex hull of the curve and never smaller than
these; the attacks' papers report the plain curve. Its intervals run one resample at a
time in threads, one measure a call. For lower bounds of epsilon, which is what the hull
is for, use it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedsparsify_jax.errors import InputError

FPRS = (0.001, 0.01)
"""False-positive rates that membership attacks are reported at."""

_CELLS = 2_000_000  # numbers of a block of resamples


class Roc(NamedTuple):
    """A curve from (0, 0) to (1, 1), one point for each distinct score."""

    fpr: np.ndarray  # [u + 1]
    tpr: np.ndarray  # [u + 1]
    thresholds: np.ndarray  # [u + 1], falling; inf at (0, 0)


class Interval(NamedTuple):
    """A measure and its confidence interval."""

    estimate: float
    low: float
    high: float


class Summary(NamedTuple):
    """The measures of one attack."""

    auc: Interval
    advantage: Interval
    tpr: dict[float, Interval]  # by FPR


class _Counts(NamedTuple):
    members: np.ndarray  # [u]: how many have each score
    others: np.ndarray  # [u]
    scores: np.ndarray  # [u], falling


def _counts(scores: ArrayLike, members: ArrayLike) -> _Counts:
    scores = np.asarray(scores, np.float64)
    members = np.asarray(members)
    if scores.ndim != 1 or members.shape != scores.shape or members.dtype != bool:
        raise InputError(
            f"scores have shape {list(scores.shape)}, members {list(members.shape)} "
            f"and dtype {members.dtype}: give one score and one bool an example, [n]"
        )
    if np.isnan(scores).any():
        raise InputError(
            f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN: leave those "
            "examples out, or score them otherwise"
        )
    if members.all() or not members.any():
        raise InputError(
            f"{members.sum()} of {len(members)} examples are members: a curve needs "
            "members and others"
        )
    values, place = np.unique(-scores, return_inverse=True)
    count = lambda chosen: np.bincount(place[chosen], minlength=len(values))
    return _Counts(members=count(members), others=count(~members), scores=-values)


def _rates(counts: np.ndarray) -> np.ndarray:
    """Returns shares at or above each score, from 0: ``[..., u]`` to ``[..., u+1]``."""
    above = np.cumsum(counts, axis=-1)
    start = np.zeros((*above.shape[:-1], 1))
    return np.concatenate([start, above], axis=-1) / above[..., -1:]


def _area(fpr: np.ndarray, tpr: np.ndarray) -> np.ndarray:
    """Integrates by trapezoids, which gives ties one half each."""
    return np.sum(np.diff(fpr) * (tpr[..., 1:] + tpr[..., :-1]) / 2, axis=-1)


def _reached(fpr: np.ndarray, tpr: np.ndarray, limit: float) -> np.ndarray:
    # Rates are quotients of whole numbers; the tolerance is below any of their steps.
    return np.max(np.where(fpr <= limit + 1e-12, tpr, 0.0), axis=-1)


def _measures(
    fpr: np.ndarray, tpr: np.ndarray, limits: tuple[float, ...]
) -> np.ndarray:
    """Stacks AUC, advantage and TPRs: ``[..., 2 + limits]``."""
    return np.stack(
        [
            _area(fpr, tpr),
            np.max(tpr - fpr, axis=-1),
            *(_reached(fpr, tpr, limit) for limit in limits),
        ],
        axis=-1,
    )


def roc(scores: ArrayLike, members: ArrayLike) -> Roc:
    """Computes the ROC curve of scores ``[n]`` for members, bool ``[n]``.

    Raises:
      InputError: for other shapes, NaN, or examples that are all of one kind.

    Example:
      >>> curve = roc([3.0, 1.0, 2.0, 1.0], np.array([True, True, False, False]))
      >>> curve.fpr.tolist(), curve.tpr.tolist()
      ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    counts = _counts(scores, members)
    return Roc(
        fpr=_rates(counts.others),
        tpr=_rates(counts.members),
        thresholds=np.concatenate([[np.inf], counts.scores]),
    )


def auc(scores: ArrayLike, members: ArrayLike) -> float:
    """Computes the area under the ROC curve, ties counting one half.

    >>> auc([3.0, 1.0, 2.0, 1.0], np.array([True, True, False, False]))
    0.625
    """
    curve = roc(scores, members)
    return float(_area(curve.fpr, curve.tpr))


def advantage(scores: ArrayLike, members: ArrayLike) -> float:
    """Computes the largest TPR - FPR over all thresholds, at least 0.

    >>> advantage([3.0, 1.0, 2.0, 1.0], np.array([True, True, False, False]))
    0.5
    """
    curve = roc(scores, members)
    return float(np.max(curve.tpr - curve.fpr))


def tpr_at(scores: ArrayLike, members: ArrayLike, fpr: float) -> float:
    """Computes the largest TPR of a threshold whose FPR is at most ``fpr``.

    >>> tpr_at([3.0, 1.0, 2.0, 1.0], np.array([True, True, False, False]), 0.01)
    0.5
    """
    _check_rates((fpr,))
    curve = roc(scores, members)
    return float(_reached(curve.fpr, curve.tpr, fpr))


def _check_rates(rates: tuple[float, ...]) -> None:
    for rate in rates:
        if not 0 <= rate <= 1:
            raise InputError(f"fpr is {rate}: it must be between 0 and 1")


def summarize(
    scores: ArrayLike,
    members: ArrayLike,
    *,
    fprs: tuple[float, ...] = FPRS,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Summary:
    """Computes all measures of an attack with bootstrap intervals.

    Args:
      scores: ``[n]``, larger for supposed members.
      members: bool ``[n]``.
      fprs: rates to give the TPR at.
      resamples: bootstrap draws, at least 1.
      confidence: of the intervals, inside (0, 1).
      seed: of the draws.

    Raises:
      InputError: as `roc`, and for a rate, a number or a confidence out of range.

    Example:
      >>> members = np.arange(40) < 20
      >>> summary = summarize(np.where(members, 1.0, 0.0), members)
      >>> summary.auc, summary.tpr[0.001]
      (Interval(estimate=1.0, low=1.0, high=1.0), \
Interval(estimate=1.0, low=1.0, high=1.0))
    """
    _check_rates(fprs)
    if resamples < 1 or not 0 < confidence < 1:
        raise InputError(
            f"resamples is {resamples} and confidence {confidence}: resamples must be "
            "at least 1, confidence inside (0, 1)"
        )
    counts = _counts(scores, members)
    exact = _measures(_rates(counts.others), _rates(counts.members), fprs)

    # Drawing n examples with replacement is drawing how often each score comes up.
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // len(counts.scores))
    parts = []
    for first in range(0, resamples, block):
        number = min(block, resamples - first)
        others = _rates(_drawn(rng, counts.others, number))
        parts.append(
            _measures(others, _rates(_drawn(rng, counts.members, number)), fprs)
        )
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(np.concatenate(parts), tails, axis=0)

    auc, advantage, *tprs = (
        Interval(*map(float, row)) for row in np.stack([exact, low, high], axis=1)
    )
    return Summary(auc=auc, advantage=advantage, tpr=dict(zip(fprs, tprs, strict=True)))


def _drawn(rng: np.random.Generator, counts: np.ndarray, number: int) -> np.ndarray:
    """Draws counts of resamples: ``[number, u]``."""
    total = counts.sum()
    return rng.multinomial(total, counts / total, size=number)

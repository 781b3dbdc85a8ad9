"""Knowledge fusion: past models beside the last one, for what it has forgotten.

Stern, Yaacoby and Weinshall, *On Local Overfitting and Forgetting in Deep Neural
Networks*, AAAI 2025, arXiv 2412.12968 (KnowledgeFusion).

With class probabilities p_c of past models c = 1 ... C and p of the last one, on
validation examples, and a window w,

    cur <- p
    repeat
        A    <- the c that is right about most examples that cur is wrong about
        p_A  <- the mean of p_c over c in A - w ... A + w
        eps  <- the weight of most accuracy of (1 - eps) cur + eps p_A
        stop unless that is better than cur
        cur  <- (1 - eps) cur + eps p_A

Deviations: models are those of rounds, not of epochs. eps is one of 0.05, 0.1 ... 0.95,
for the authors' grid is not known; ties go to the earliest model and the smallest eps.
Their last step, to distil the fused models into one, is not here.

Checked against: NumPy, in tests/metrics/test_fusion.py.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

EPSILONS = tuple(n / 20 for n in range(1, 20))


class Link(NamedTuple):
    """One step of the fusion."""

    checkpoint: int  # A, from 0
    weight: float  # eps


def accuracy(probabilities: Any, labels: Any) -> float:
    """Returns the share of examples whose class has the largest probability."""
    return float(np.mean(np.argmax(probabilities, axis=-1) == labels))


def window_of(checkpoint: int, checkpoints: int, window: int) -> range:
    """Returns the checkpoints of a window, which ends where they do.

    >>> list(window_of(0, 5, 1)), list(window_of(2, 5, 1))
    ([0, 1], [1, 2, 3])
    """
    return range(max(checkpoint - window, 0), min(checkpoint + window + 1, checkpoints))


def _mean(probabilities: Any, checkpoint: int, window: int) -> np.ndarray:
    """Returns p_A of the probabilities ``[C, n, K]``: ``[n, K]``."""
    chosen = window_of(checkpoint, len(probabilities), window)
    return np.mean([probabilities[c] for c in chosen], axis=0)


def _mixed(now: np.ndarray, other: np.ndarray, weight: float) -> np.ndarray:
    return (1 - weight) * now + weight * other


def fuse(
    probabilities: Any,
    last: Any,
    labels: Any,
    *,
    window: int = 1,
    epsilons: Sequence[float] = EPSILONS,
) -> list[Link]:
    """Chooses past models, greedily, that make up for what the last one has forgotten.

    Args:
      probabilities: of the past models, ``[C, n, K]``, in the order of their rounds.
      last: of the last model, ``[n, K]``.
      labels: classes ``[n]``, of a validation set.
      window: w, neighbours on either side that are averaged with a past model.
      epsilons: weights to try.

    Returns:
      The links in order; none if no past model helps.

    Raises:
      ValueError: for a window below 0.

    Example:
      A past model is right about the example that the last one is wrong about.

      >>> past, last = [[[0.9, 0.1], [0.4, 0.6]]], [[0.38, 0.62], [0.3, 0.7]]
      >>> fuse(past, last, [0, 1])
      [Link(checkpoint=0, weight=0.25)]
    """
    if window < 0:
        raise ValueError(f"window is {window}: it must be at least 0")
    past = np.asarray(probabilities, np.float64)
    now, labels = np.asarray(last, np.float64), np.asarray(labels)
    links: list[Link] = []
    if not len(past):
        return links
    is_right = np.argmax(past, axis=-1) == labels
    while True:
        is_wrong = np.argmax(now, axis=-1) != labels
        best = int(np.argmax((is_right & is_wrong).sum(axis=-1)))
        other = _mean(past, best, window)
        reached = [accuracy(_mixed(now, other, eps), labels) for eps in epsilons]
        chosen = int(np.argmax(reached))
        if reached[chosen] <= accuracy(now, labels):
            return links
        now = _mixed(now, other, epsilons[chosen])
        links.append(Link(best, epsilons[chosen]))


def members(links: Sequence[Link], checkpoints: int, window: int) -> list[int]:
    """Returns the past models that a fusion needs, in order.

    >>> members([Link(3, 0.5), Link(0, 0.1)], checkpoints=4, window=1)
    [0, 1, 2, 3]
    """
    windows = [window_of(link.checkpoint, checkpoints, window) for link in links]
    return sorted({number for chosen in windows for number in chosen})


def fused(
    probabilities: Any, last: Any, links: Sequence[Link], *, window: int = 1
) -> np.ndarray:
    """Returns the probabilities of the fused models: ``[n, K]``.

    Args:
      probabilities: of the past models, ``[C, n, K]``; None for one that is not of the
        `members`.
      last: of the last model, ``[n, K]``.
      links: of `fuse`.
      window: the same.

    Example:
      >>> fused([[[1.0, 0.0]]], [[0.0, 1.0]], [Link(0, 0.25)]).tolist()
      [[0.25, 0.75]]
      >>> fused([], [[0.0, 1.0]], []).tolist()
      [[0.0, 1.0]]
    """
    now = np.asarray(last, np.float64)
    for link in links:
        now = _mixed(now, _mean(probabilities, link.checkpoint, window), link.weight)
    return now

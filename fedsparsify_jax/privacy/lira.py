"""LiRA, the likelihood-ratio attack: is a score like those of models that saw it?

Shadow models are trained on random parts of the data, so that every example is in some
and out of others. With the score phi of one example under a model, a
`scores.logit_confidence`, for which a normal distribution fits well,

    online    log N(phi; m_in, s_in) - log N(phi; m_out, s_out)
    offline   -log N(phi; m_out, s_out), which needs no model that saw the example

where m is the median and s the standard deviation (divided by the number, not one less)
of the shadow models' scores of the example, in or out. Scores of several augmented
copies of an example have their results averaged.

Few shadow models do not give a deviation for each example. ``variance="global"`` takes
one for all, the root of the mean of the examples' variances; then 8 shadow models do.
The authors' code takes the deviation of all scores at once instead. With one s the
order of the results, and so every curve, is the same for any s.

References:
  Carlini et al., Membership Inference Attacks From First Principles, S&P 2022,
  arXiv 2112.03570, algorithm 1 and section V.
  The authors' code, tensorflow/privacy 3d499e6, research/mi_lira_2021/plot.py, whose
  offline score is two-sided as here; the paper's is one-sided, see `offline`.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedsparsify_jax.errors import InputError

Variance = Literal["example", "global"]
"""Whose standard deviation is used: each example's, or one for all."""


class _Normals(NamedTuple):
    centre: np.ndarray  # [n, A]
    spread: np.ndarray  # [n, A], or [1, 1] if it is one for all


def online(
    shadow_scores: ArrayLike,
    shadow_members: ArrayLike,
    target_scores: ArrayLike,
    *,
    variance: Variance = "example",
) -> np.ndarray:
    """Scores examples by the ratio of both likelihoods; members have larger ones.

    Args:
      shadow_scores: of S shadow models, ``[S, n]`` or, for A copies of each example,
        ``[S, n, A]``.
      shadow_members: bool ``[S, n]``: which examples each of them was trained on.
      target_scores: of the model that is attacked, ``[n]`` or ``[n, A]``.
      variance: ``"example"`` or ``"global"``.

    Returns:
      float64 ``[n]``.

    Raises:
      InputError: for other shapes, or an example with too few shadow models in or out.

    Example:
      >>> shadow = np.array([[3.0], [5.0], [0.0], [2.0]])
      >>> members = np.array([[True], [True], [False], [False]])
      >>> online(shadow, members, np.array([4.0])).round(6)
      array([4.5])
    """
    shadow, members, target = _checked(shadow_scores, shadow_members, target_scores)
    inside = _fitted(shadow, members, variance, "in")
    outside = _fitted(shadow, ~members, variance, "out")
    if variance == "global":  # one for both, so that only distances matter
        spread = np.sqrt((inside.spread**2 + outside.spread**2) / 2)
        inside, outside = (n._replace(spread=spread) for n in (inside, outside))
    ratio = _log_density(target, inside) - _log_density(target, outside)
    return np.mean(ratio, axis=1)


def offline(
    shadow_scores: ArrayLike,
    shadow_members: ArrayLike,
    target_scores: ArrayLike,
    *,
    variance: Variance = "example",
    one_sided: bool = False,
) -> np.ndarray:
    """Scores examples by how unlike a model that has not seen them the target is.

    Args:
      shadow_scores: ``[S, n]`` or ``[S, n, A]``.
      shadow_members: bool ``[S, n]``; only the models without an example count for it.
      target_scores: ``[n]`` or ``[n, A]``.
      variance: ``"example"`` or ``"global"``.
      one_sided: whether only larger scores speak for a member, as in the paper:
        ``(phi - m_out) / s_out``, of which its ``Pr[Z <= phi]`` is an increasing
        function that float64 rounds to 1. By default both sides do, as in the
        authors' code.

    Returns:
      float64 ``[n]``, larger for members.

    Raises:
      InputError: as `online`.

    Example:
      >>> shadow, members = np.array([[0.0], [2.0]]), np.array([[False], [False]])
      >>> offline(shadow, members, np.array([4.0]), one_sided=True)
      array([3.])
    """
    shadow, members, target = _checked(shadow_scores, shadow_members, target_scores)
    outside = _fitted(shadow, ~members, variance, "out")
    if one_sided:
        return np.mean((target - outside.centre) / outside.spread, axis=1)
    return np.mean(-_log_density(target, outside), axis=1)


def _checked(
    shadow_scores: ArrayLike, shadow_members: ArrayLike, target_scores: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns ``[S, n, A]``, ``[S, n]`` and ``[n, A]``."""
    shadow = np.asarray(shadow_scores, np.float64)
    target = np.asarray(target_scores, np.float64)
    members = np.asarray(shadow_members)
    fits = (
        shadow.ndim in (2, 3)
        and target.shape == shadow.shape[1:]
        and members.shape == shadow.shape[:2]
        and members.dtype == bool
    )
    if not fits:
        raise InputError(
            f"shadow_scores have shape {list(shadow.shape)}, shadow_members "
            f"{list(members.shape)} ({members.dtype}), target_scores "
            f"{list(target.shape)}: they must be [S, n], bool [S, n] and [n]"
        )
    if not (np.isfinite(shadow).all() and np.isfinite(target).all()):
        raise InputError("scores for LiRA must be finite: some are NaN or infinite")
    if shadow.ndim == 2:
        shadow, target = shadow[:, :, None], target[:, None]
    return shadow, members, target


def _fitted(
    shadow: np.ndarray, chosen: np.ndarray, variance: Variance, side: str
) -> _Normals:
    """Fits a normal distribution to the chosen models' scores of each example."""
    if variance not in ("example", "global"):
        raise InputError(f"variance is {variance!r}: it must be example or global")
    needed = 2 if variance == "example" else 1
    number = chosen.sum(axis=0)
    if number.min() < needed:
        raise InputError(
            f"example {int(number.argmin())} is {side} for {number.min()} of "
            f"{len(chosen)} shadow models: it needs {needed}; train more of them"
        )
    scores = np.where(chosen[:, :, None], shadow, np.nan)
    centre = np.nanmedian(scores, axis=0)
    if variance == "example":
        return _Normals(centre, _positive(np.nanstd(scores, axis=0), side))
    mean = np.sqrt(np.mean(np.nanvar(scores, axis=0), keepdims=True))
    return _Normals(centre, _positive(mean, side))


def _positive(spread: np.ndarray, side: str) -> np.ndarray:
    if not (spread > 0).all():
        raise InputError(
            f"all shadow models that are {side} give an example the same score: train "
            "more, with other seeds"
        )
    return spread


def _log_density(x: np.ndarray, normals: _Normals) -> np.ndarray:
    z = (x - normals.centre) / normals.spread
    return -0.5 * z**2 - np.log(normals.spread) - 0.5 * np.log(2 * np.pi)

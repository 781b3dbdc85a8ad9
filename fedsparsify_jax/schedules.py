"""Sparsity schedules: round ``t`` (1, 2, ..., T) to target sparsity in [0, 1).

Every builder returns a function that takes a Python int (and then returns a Python
float, computed in double precision) or a traced array (and then returns a float32
array). The builders' numbers may be traced too, which is how sweeps over final
sparsities or exponents become one program.
"""

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fedsparsify_jax.types import Schedule

# The largest float32 below one: survives a later conversion to float32.
_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


def _backend(*values: Any) -> ModuleType:
    """Returns NumPy while every number is concrete on the host, jax.numpy otherwise."""
    host = all(isinstance(value, int | float | np.number) for value in values)
    return np if host else jnp


def _clipped(xp: ModuleType, sparsity: Any) -> Any:
    clipped = xp.clip(sparsity, 0.0, _BELOW_ONE)
    return float(clipped) if xp is np else clipped


def check_sparsity(name: str, value: ArrayLike) -> None:
    """Refuses a concrete sparsity outside [0, 1); traced ones pass unchecked.

    Raises:
      ValueError: naming the argument, its value and the allowed range.
    """
    if isinstance(value, int | float | np.number) and not 0 <= float(value) < 1:
        raise ValueError(f"{name} is {value}: it must be at least 0 and below 1")


def polynomial(
    final: ArrayLike,
    *,
    end: ArrayLike,
    begin: ArrayLike = 1,
    initial: ArrayLike = 0.0,
    exponent: ArrayLike = 3.0,
    every: int = 1,
) -> Schedule:
    """Builds the schedule of FedSparsify; cubic with the default exponent.

    ``s_t = S_T + (S_0 - S_T) (1 - (F floor(t/F) - t0) / (T - t0))^n`` for
    ``t >= t0`` and 0 before; ``S_T`` from round T on. If T is not a multiple of F,
    the formula stops short of ``S_T`` at its last multiple, as in the paper.

    Args:
      final: S_T, the sparsity reached in round ``end``.
      end: T, the last round.
      begin: t0; with ``initial=0`` the first purge comes in round ``begin + 1``.
      initial: S_0, the sparsity in round ``begin``.
      exponent: n; larger prunes earlier.
      every: F, rounds between changes of the target.

    References:
      Stripelis et al., FedSparsify (arXiv 2204.12430), sparsification schedule;
      the form is that of Zhu and Gupta, To prune, or not to prune (arXiv
      1710.01878), eq. 1.

    Example:
      >>> schedule = polynomial(0.95, end=200)
      >>> [round(schedule(t), 3) for t in (1, 2, 10, 50, 100, 150, 200)]
      [0.0, 0.014, 0.123, 0.543, 0.829, 0.935, 0.95]
    """
    check_sparsity("final sparsity", final)
    check_sparsity("initial sparsity", initial)
    if every < 1:
        raise ValueError(f"every is {every}: it must be at least 1 round")

    start: Any = initial

    def schedule(t: ArrayLike) -> ArrayLike:
        xp = _backend(t, final, end, begin, initial, exponent)
        # One-round runs have T = t0; the ratio is then never used before t = T.
        length = xp.maximum(xp.asarray(end) - begin, 1)
        progress = (every * (xp.asarray(t) // every) - begin) / length
        progress = xp.where(xp.asarray(t) >= end, 1.0, xp.minimum(progress, 1.0))
        if every > 1:  # T itself follows the formula, after T the target holds
            last = (every * (xp.asarray(end) // every) - begin) / length
            progress = xp.minimum(progress, last)
        sparsity = final + (start - final) * (1.0 - progress) ** exponent
        return _clipped(xp, xp.where(xp.asarray(t) >= begin, sparsity, 0.0))

    return schedule


def linear(
    final: ArrayLike, *, end: ArrayLike, begin: ArrayLike = 1, initial: ArrayLike = 0.0
) -> Schedule:
    """Takes equal steps from ``initial`` in round ``begin`` to ``final`` in ``end``.

    >>> linear(0.8, end=5)(3)
    0.4
    """
    return polynomial(final, end=end, begin=begin, initial=initial, exponent=1.0)


def cosine(
    final: ArrayLike, *, end: ArrayLike, begin: ArrayLike = 1, initial: ArrayLike = 0.0
) -> Schedule:
    """Follows half a cosine wave: slow at both ends, 0 before round ``begin``.

    >>> round(cosine(0.8, end=5)(3), 6)
    0.4
    """
    check_sparsity("final sparsity", final)
    check_sparsity("initial sparsity", initial)

    start: Any = initial

    def schedule(t: ArrayLike) -> ArrayLike:
        xp = _backend(t, final, end, begin, initial)
        length = xp.maximum(xp.asarray(end) - begin, 1)
        progress = xp.clip((xp.asarray(t) - begin) / length, 0.0, 1.0)
        progress = xp.where(xp.asarray(t) >= end, 1.0, progress)
        sparsity = final + (start - final) * (1.0 + xp.cos(np.pi * progress)) / 2.0
        return _clipped(xp, xp.where(xp.asarray(t) >= begin, sparsity, 0.0))

    return schedule


def constant(sparsity: ArrayLike) -> Schedule:
    """Keeps the same target in every round.

    >>> constant(0.5)(7)
    0.5
    """
    check_sparsity("sparsity", sparsity)

    def schedule(t: ArrayLike) -> ArrayLike:
        xp = _backend(t, sparsity)
        return _clipped(xp, xp.zeros(np.shape(t)) + sparsity)

    return schedule


def one_shot(final: ArrayLike, *, at: ArrayLike) -> Schedule:
    """Stays dense before round ``at``, then ``final`` at once and for good.

    >>> schedule = one_shot(0.9, at=10)
    >>> schedule(9), schedule(10)
    (0.0, 0.9)
    """
    check_sparsity("final sparsity", final)

    def schedule(t: ArrayLike) -> ArrayLike:
        xp = _backend(t, final, at)
        return _clipped(xp, xp.where(xp.asarray(t) >= at, final, 0.0))

    return schedule


def multiplicative(
    share: ArrayLike,
    *,
    begin: ArrayLike = 1,
    every: int = 1,
    final: ArrayLike = _BELOW_ONE,
) -> Schedule:
    """Removes the same share of what remains in every purge.

    After p purges the sparsity is ``1 - (1 - share)^p``; purges come every
    ``every`` rounds after round ``begin`` until ``final`` is reached. This is the
    rule of the authors' code before May 2022, with shares of 0.5 % to 8 %.

    >>> schedule = multiplicative(0.5)
    >>> [schedule(t) for t in (1, 2, 3)]
    [0.0, 0.5, 0.75]
    """
    check_sparsity("share", share)
    check_sparsity("final sparsity", final)
    if every < 1:
        raise ValueError(f"every is {every}: it must be at least 1 round")

    def schedule(t: ArrayLike) -> ArrayLike:
        xp = _backend(t, share, begin, final)
        purges = xp.maximum((xp.asarray(t) - begin) // every, 0)
        return _clipped(xp, xp.minimum(1.0 - (1.0 - share) ** purges, final))

    return schedule


def last_purge(
    rounds: ArrayLike, fine_tune_rounds: int, schedule: Schedule | None
) -> ArrayLike:
    """Returns the round in which S_T is reached: ``rounds - fine_tune_rounds``.

    Raises:
      ValueError: if that is no round, or with rounds of fine-tuning after a schedule
        of the caller's, which says itself when it ends.

    >>> last_purge(200, 10, None)
    190
    """
    if fine_tune_rounds < 0:
        raise ValueError(
            f"fine_tune_rounds is {fine_tune_rounds}: it must be at least 0"
        )
    if fine_tune_rounds and schedule is not None:
        raise ValueError("fine_tune_rounds goes with the polynomial schedule only")
    if isinstance(rounds, int) and fine_tune_rounds and fine_tune_rounds >= rounds:
        raise ValueError(
            f"fine_tune_rounds is {fine_tune_rounds}: it must be below rounds={rounds}"
        )
    return rounds - fine_tune_rounds

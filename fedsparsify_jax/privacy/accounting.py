"""Epsilon of noisy sums, by the package ``dp_accounting``.

A round of user-level DP-FedAvg (McMahan et al., arXiv 1710.06963; `privacy.noise`) adds
the clients' updates, each of norm C at most, and normal noise of deviation z C; z is
the noise multiplier. A step of DP-SGD (Abadi et al., arXiv 1607.00133) does the same
with examples' gradients. Both are Gaussian mechanisms of a sample, composed over rounds
or steps, and only differ in the units whose presence they hide.

The guarantee is (epsilon, delta) for one of two pairs of neighbours, and which one
depends on the sampling:

* `poisson`: every unit is in with probability q, independently. Neighbours differ by
  one unit that is there or not, which moves the sum by at most C.
* `fixed`: m of N units, without replacement. Neighbours have the same N, of which one
  is another. A replaced unit moves the sum by up to **2 C**, so the noise multiplier
  that counts is z / 2. ``dp_accounting`` does not halve it itself: its RDP of samples
  without replacement (Wang, Balle and Kasiviswanathan, arXiv 1808.00087, theorem 27)
  takes the multiplier as a ratio to the sensitivity of a replacement, although the text
  of ``GaussianDpEvent`` has it as one to the norm. `epsilon` halves it.

The same z has a much larger epsilon under fixed cohorts; to account for them as if they
were Poisson samples is a mistake (Lebeda et al., arXiv 2405.20769). Batches by
shuffling, as ordinary epochs have them, are neither (Chua et al., arXiv 2403.17673):

* `shuffled`: every pass over a client's examples has each of them in one batch. Nothing
  is left to chance. Neighbours have the same numbers of examples, one of which is
  zeroed out: it counts, and its gradient is zero. Given the order, that moves the sum
  of one step by at most C, and all other steps of the pass are functions of what came
  out before them. So a pass is one Gaussian mechanism of multiplier z, and passes
  compose. For neighbours with another example in its place take z / 2.

Accountants: ``"rdp"`` (Mironov, arXiv 1702.07476) is fast and an upper bound;
``"pld"``, privacy loss distributions, is tighter, takes seconds, and has no event for
fixed cohorts.
"""

import contextlib
import importlib
import logging
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from fedsparsify_jax.errors import InputError

Accountant = Literal["rdp", "pld"]
"""Ways to compose: Renyi divergences, or privacy loss distributions."""

_LEAST, _MOST = 0.05, 1000.0  # noise multipliers that are looked at


class Sampling(NamedTuple):
    """The way in which the units of a round or step are drawn.

    Made by `poisson`, `fixed`, `dp_sgd` or `shuffled`.
    """

    population: int  # N, of clients or of examples
    probability: float | None  # q of Poisson sampling
    size: int | None  # m of fixed samples
    passes: int | None = None  # E over all units in a round, of `shuffled`

    @property
    def neighbours(self) -> str:
        """Returns the data sets that the guarantee makes alike, in words."""
        if self.passes is not None:
            return "zero out one"
        return "replace one" if self.probability is None else "add or remove one"


def poisson(probability: float, population: int) -> Sampling:
    """Returns the sampling of each unit with probability q, independently.

    ``poisson(1.0, N)`` is full participation.

    Args:
      probability: q.
      population: N, which bounds delta; a fixed figure, for the true number is secret
        under these neighbours.

    Raises:
      InputError: for q outside (0, 1], or no units.
    """
    if not 0 < probability <= 1:
        raise InputError(
            f"probability is {probability}: it must be above 0 and at most 1"
        )
    _check_whole("population", population)
    return Sampling(population=population, probability=probability, size=None)


def fixed(size: int, population: int) -> Sampling:
    """Returns the sampling of m distinct units of N, all subsets alike.

    Raises:
      InputError: unless 1 <= m <= N.
    """
    _check_whole("population", population)
    _check_whole("size", size)
    if size > population:
        raise InputError(f"size is {size}: there are {population} units to draw from")
    return Sampling(population=population, probability=None, size=size)


def shuffled(passes: int, examples: int) -> Sampling:
    """Returns the passes of a round over a client's examples, in batches by shuffling.

    They are what `private_steps` and local epochs do: of a fraction of an epoch one
    whole pass counts, of epochs after a client's purge each as well. A client may not
    be in every cohort; epsilon is that of one that is, for the cohort's chance is no
    secret of this mechanism.

    Args:
      passes: E of a round.
      examples: N of all clients, which bounds delta; public under these neighbours.

    Raises:
      InputError: for no passes, or no examples.

    Example:
      >>> shuffled(4, 1000).neighbours
      'zero out one'
    """
    _check_whole("passes", passes)
    _check_whole("examples", examples)
    return Sampling(population=examples, probability=None, size=None, passes=passes)


def dp_sgd(batch_size: int, examples: int) -> Sampling:
    """Returns the Poisson sampling of examples for DP-SGD: q is batch size over n.

    For federated training it is that of one client's data, with as many steps as this
    client can make in all rounds; the epsilon of a run is the largest one over the
    clients. That the client may not be in every cohort is not counted.

    Raises:
      InputError: unless 1 <= batch_size <= examples.

    Example:
      >>> dp_sgd(32, 128).probability
      0.25
    """
    drawn = fixed(batch_size, examples)
    return poisson(batch_size / drawn.population, examples)


def epsilon(
    noise_multiplier: float,
    sampling: Sampling,
    *,
    rounds: int,
    delta: float,
    accountant: Accountant = "rdp",
) -> float:
    """Computes epsilon after a number of rounds, or steps.

    Args:
      noise_multiplier: z, the deviation of the noise on the sum over the clipping norm.
      sampling: `poisson`, `fixed`, `dp_sgd` or `shuffled`.
      rounds: T, of the whole run.
      delta: above 0 and below 1 / N.
      accountant: ``"rdp"`` or ``"pld"``; of `shuffled` passes epsilon is exact anyway.

    Raises:
      InputError: for a value out of range, ``"pld"`` with fixed cohorts, or without the
        package ``dp_accounting``.
    """
    _check_noise(noise_multiplier)
    _check(sampling, rounds, delta, accountant)
    dp = needs_dp_accounting()
    return _epsilon(dp, noise_multiplier, sampling, rounds, delta, accountant)


def epsilons(
    noise_multiplier: float, sampling: Sampling, *, rounds: int, delta: float
) -> np.ndarray:
    """Computes epsilon after every round: float64 ``[T]``, by RDP if it is of samples.

    Args:
      noise_multiplier: z.
      sampling: see `epsilon`.
      rounds: T.
      delta: of all of them.

    Raises:
      InputError: as `epsilon`.
    """
    _check_noise(noise_multiplier)
    _check(sampling, rounds, delta, "rdp")
    dp = needs_dp_accounting()
    if sampling.passes is not None:
        spent = lambda t: _epsilon(dp, noise_multiplier, sampling, t, delta, "rdp")
        return np.array([spent(t) for t in range(1, rounds + 1)])
    with _quiet():
        one = _new(dp, sampling, "rdp")
        one.compose(_event(dp, noise_multiplier, sampling))
        after = lambda t: dp.rdp.compute_epsilon(one.orders, t * one.rdp, delta)[0]
        return np.array([after(t) for t in range(1, rounds + 1)])


def noise_multiplier(
    epsilon: float,
    sampling: Sampling,
    *,
    rounds: int,
    delta: float,
    accountant: Accountant = "rdp",
) -> float:
    """Finds the smallest noise multiplier z with this epsilon, to 1e-6 from above.

    Args:
      epsilon: the promise.
      sampling: see `epsilon`.
      rounds: T.
      delta: of the promise.
      accountant: ``"rdp"`` or ``"pld"``.

    Raises:
      InputError: as `epsilon`, and for an epsilon that no noise up to 1,000 C reaches,
        or so large that it is no promise.
    """
    if not 0 < epsilon < math.inf:
        raise InputError(f"epsilon is {epsilon}: it must be above 0 and finite")
    _check(sampling, rounds, delta, accountant)
    dp = needs_dp_accounting()
    if _epsilon(dp, _MOST, sampling, rounds, delta, accountant) > epsilon:
        raise InputError(
            f"epsilon {epsilon:g} after {rounds} rounds needs noise of more than "
            f"{_MOST:,.0f} times the clipping norm: ask for a larger epsilon or "
            "fewer rounds"
        )
    if _epsilon(dp, _LEAST, sampling, rounds, delta, accountant) <= epsilon:
        raise InputError(
            f"epsilon {epsilon:g} is reached by noise of {_LEAST} times the "
            "clipping norm, which hides nobody: ask for a smaller one"
        )
    if sampling.passes is not None:
        # Rounding must not bring it below.
        z = dp.get_sigma_gaussian(epsilon, delta) * math.sqrt(sampling.passes * rounds)
        return float(z) * (1 + 1e-9)
    with _quiet():
        z = dp.calibrate_dp_mechanism(
            lambda: _new(dp, sampling, accountant),
            lambda z: dp.SelfComposedDpEvent(_event(dp, z, sampling), rounds),
            epsilon,
            delta,
            dp.ExplicitBracketInterval(_LEAST, _MOST),
        )
    return float(z)


def needs_dp_accounting() -> Any:
    """Returns the package ``dp_accounting``, with its accountants.

    Raises:
      InputError: with the command that installs it.
    """
    try:
        package = importlib.import_module("dp_accounting")
        importlib.import_module("dp_accounting.pld")
        importlib.import_module("dp_accounting.rdp")
    except ImportError:
        raise InputError(
            "epsilon needs dp-accounting: pip install 'fedsparsify_jax[privacy]'"
        ) from None
    return package


def _epsilon(
    dp: Any,
    noise_multiplier: float,
    sampling: Sampling,
    rounds: int,
    delta: float,
    accountant: Accountant,
) -> float:
    if sampling.passes is not None:
        together = noise_multiplier / math.sqrt(sampling.passes * rounds)
        return float(dp.get_epsilon_gaussian(together, delta))
    with _quiet():
        events = _new(dp, sampling, accountant)
        events.compose(_event(dp, noise_multiplier, sampling), rounds)
        return float(events.get_epsilon(delta))


def _new(dp: Any, sampling: Sampling, accountant: Accountant) -> Any:
    """Returns an accountant for the sampling's neighbours that has seen nothing."""
    if accountant == "pld":
        return dp.pld.PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
    if sampling.probability is None:
        relation = dp.NeighboringRelation.REPLACE_ONE
    else:
        relation = dp.NeighboringRelation.ADD_OR_REMOVE_ONE
    return dp.rdp.RdpAccountant(neighboring_relation=relation)


def _event(dp: Any, noise_multiplier: float, sampling: Sampling) -> Any:
    """Returns one round as `dp_accounting` has it."""
    if sampling.probability is not None:
        noise = dp.GaussianDpEvent(noise_multiplier)
        return dp.PoissonSampledDpEvent(sampling.probability, noise)
    # A replacement moves the sum by twice the norm.
    noise = dp.GaussianDpEvent(noise_multiplier / 2)
    return dp.SampledWithoutReplacementDpEvent(
        sampling.population, sampling.size, noise
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides that an order was left out of a minimum, which only makes it larger."""
    logger, silent = logging.getLogger("absl"), lambda record: False
    logger.addFilter(silent)
    try:
        yield
    finally:
        logger.removeFilter(silent)


def _check_whole(name: str, number: int) -> None:
    if isinstance(number, bool) or int(number) != number or number < 1:
        raise InputError(f"{name} is {number}: it must be a whole number of at least 1")


def _check_noise(noise_multiplier: float) -> None:
    if not 0 < noise_multiplier < math.inf:
        raise InputError(
            f"noise_multiplier is {noise_multiplier}: it must be above 0 and finite; "
            "without noise there is no epsilon"
        )


def _check(
    sampling: Sampling, rounds: int, delta: float, accountant: Accountant
) -> None:
    _check_whole("rounds", rounds)
    if not delta > 0:
        raise InputError(f"delta is {delta}: it must be above 0")
    if not delta * sampling.population < 1:
        raise InputError(
            f"delta is {delta}: it must be below 1 / N = {1 / sampling.population:g}, "
            "or one of the N may be published"
        )
    if accountant not in get_args(Accountant):
        raise InputError(f"accountant is {accountant!r}: it must be rdp or pld")
    if accountant == "pld" and sampling.size is not None:
        raise InputError(
            "the accountant pld has no event for cohorts of a fixed size: use rdp, or "
            "Poisson sampling"
        )

"""Means, spreads and paired differences over seeds.

Two methods see the same partition, initial model and cohorts under the same seed, so
their difference is taken seed by seed and its interval is Student's:

    d +- t(0.975, n - 1) * s_d / sqrt(n)

With three seeds the factor t / sqrt(n) is 2.48: only clear differences stand out. The
interval takes differences as normal and makes no allowance for many comparisons.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats


class Difference(NamedTuple):
    """A mean difference and its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def noise(self) -> bool:
        """Whether the interval has 0 in it."""
        return self.low <= 0 <= self.high

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def paired(
    values: Mapping[int, float], others: Mapping[int, float], level: float = 0.95
) -> Difference | None:
    """The mean of ``values - others`` over the seeds that both have.

    Args:
      values: by seed.
      others: by seed, of what is compared with.
      level: of the interval.

    Returns:
      None if there are fewer than two common seeds.

    Example:
      >>> found = paired({0: 2.0, 1: 3.0, 2: 4.0}, {0: 1.0, 1: 1.0, 2: 1.0, 7: 9.0})
      >>> found.mean, round(found.half, 3), found.noise, found.seeds
      (2.0, 2.484, True, 3)
    """
    common = sorted(set(values) & set(others))
    if len(common) < 2:
        return None
    gaps = [values[seed] - others[seed] for seed in common]
    mean, spread = statistics.fmean(gaps), statistics.stdev(gaps)
    quantile = float(stats.t.ppf(0.5 + level / 2, len(gaps) - 1))
    half = quantile * spread / len(gaps) ** 0.5
    return Difference(mean, mean - half, mean + half, len(gaps))


def spread(values: Sequence[float], digits: int = 1, scale: float = 1.0) -> str:
    """Mean and sample standard deviation; the latter from two values on.

    >>> spread([0.5, 0.75], scale=100), spread([0.5], scale=100), spread([])
    ('62.5 ± 17.7', '50.0', '')
    """
    if not values:
        return ""
    scaled = [scale * value for value in values]
    text = f"{statistics.fmean(scaled):.{digits}f}"
    if len(scaled) > 1:
        text += f" ± {statistics.stdev(scaled):.{digits}f}"
    return text

"""Results of runs: means and spread over seeds, curves, differences seed by seed.

`report` and ``experiments`` share this layer. Two methods see the same partition,
initial model and cohorts under the same seed, so their difference is taken seed by seed
and its interval is Student's:

    d +- t(0.975, n - 1) * s_d / sqrt(n)

With three seeds the factor t / sqrt(n) is 2.48: only clear differences stand out. The
interval takes differences as normal and makes no allowance for many comparisons.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd
from scipy.special import stdtrit

NOISE = " ≈"
"""Mark of a difference that is within noise."""


class Spread(NamedTuple):
    """Mean and sample standard deviation over runs."""

    mean: float
    deviation: float | None  # of a single run, None
    runs: int

    def text(self, digits: int = 1, scale: float = 1.0) -> str:
        """Returns mean ± deviation; the latter from two runs on."""
        mean = f"{scale * self.mean:.{digits}f}"
        if self.deviation is None:
            return mean
        return f"{mean} ± {scale * self.deviation:.{digits}f}"


def spread(values: Iterable[float | None]) -> Spread | None:
    """Returns mean and deviation of values, None if there is none.

    >>> spread([0.5, 0.75, None]).text(scale=100), spread([0.5]).text(), spread([])
    ('62.5 ± 17.7', '0.5', None)
    """
    numbers = pd.Series(values, dtype=float).dropna()
    if numbers.empty:
        return None
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Spread(statistics.fmean(numbers), deviation, len(numbers))


class Difference(NamedTuple):
    """A mean difference and half its 95 % interval."""

    mean: float
    half: float | None  # of one seed, None
    seeds: int

    @property
    def noise(self) -> bool:
        """Returns whether the interval contains 0."""
        return self.half is not None and abs(self.mean) <= self.half

    def text(self, scale: float = 100.0) -> str:
        """Returns the difference and half its interval, marked if it is noise.

        >>> Difference(0.01, 0.02, seeds=3).text()
        '+1.0 ± 2.0 ≈'
        """
        mean = f"{scale * self.mean:+.1f}"
        if self.half is None:
            return f"{mean} (1 seed)"
        return f"{mean} ± {scale * self.half:.1f}" + (NOISE if self.noise else "")


def paired(
    values: pd.Series, others: pd.Series, level: float = 0.95
) -> Difference | None:
    """Returns the mean of ``values - others`` over the seeds of both.

    Args:
      values: by seed.
      others: by seed, subtracted.
      level: of the interval.

    Returns:
      None if no seed is in both.

    Example:
      >>> others = pd.Series({0: 1.0, 1: 1.0, 2: 1.0, 7: 9.0})
      >>> gap = paired(pd.Series({0: 2.0, 1: 3.0, 2: 4.0}), others)
      >>> gap.mean, round(gap.half, 3), gap.noise, gap.seeds
      (2.0, 2.484, True, 3)
    """
    gaps = (values - others).dropna()
    if gaps.empty:
        return None
    half, count = None, len(gaps)
    if count > 1:
        quantile = stdtrit(count - 1, 0.5 + level / 2)
        half = float(quantile * gaps.std() / count**0.5)
    return Difference(float(gaps.mean()), half, count)


def over_rounds(tables: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
    """Returns a column's ``mean``, ``low`` and ``high`` over runs, by round.

    Args:
      tables: a table a run, a row a round.
      column: of the tables; rounds that a run lacks are left out.
    """
    columns = [table[column] for table in tables if column in table]
    if not columns or len(columns) < len(tables):
        return pd.DataFrame({"mean": [], "low": [], "high": []}, dtype=float)
    runs = pd.concat(columns, axis=1, join="inner").dropna().sort_index()
    columns = [runs.mean(axis=1), runs.min(axis=1), runs.max(axis=1)]
    return pd.concat(columns, axis=1, keys=["mean", "low", "high"])


@dataclasses.dataclass(frozen=True)
class Repetitions:
    """Runs that differ in their seed alone.

    `reading.Run` says which columns the tables of a run directory have.
    """

    figures: pd.DataFrame  # a row a run
    rounds: Sequence[pd.DataFrame]  # a table a run, a row a round

    def spread(self, figure: str) -> Spread | None:
        """Returns mean and deviation of a figure."""
        return spread(self.figures[figure]) if figure in self.figures else None

    def curve(self, column: str) -> pd.DataFrame:
        """Returns `over_rounds` of these runs."""
        return over_rounds(self.rounds, column)

    def path(self, x: str, y: str) -> list[tuple[float, float]]:
        """Returns points of one column against another, means over the runs."""
        means = [self.curve(column)["mean"] for column in (x, y)]
        both = pd.concat(means, axis=1, join="inner")
        return list(both.itertuples(index=False, name=None))

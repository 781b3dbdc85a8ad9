"""Figures before they are drawn: lines over axes, and heat maps."""

import dataclasses
from collections.abc import Sequence

Points = Sequence[tuple[float, float]]

TONES = 8
"""Colours that series may have; more than that many repeat them with dashes."""


@dataclasses.dataclass(frozen=True)
class Series:
    """A line, or points that are joined."""

    label: str
    tone: int
    points: Points  # (x, y)
    spread: Points = ()  # (lowest, highest) of every point
    dashed: bool = False
    marks: bool = False  # a dot at every point, and its spread as a bar
    level: bool = False  # one point that stands for all x: a horizontal line


@dataclasses.dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_kind: str = "count"
    y_kind: str = "number"


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """A strip of shares in [0, 1] a row, over rounds."""

    title: str
    x_label: str
    rows: tuple[tuple[str, Points], ...]  # label and (round, value)


Figure = Chart | HeatMap

LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
"""Where a heat map's colours change: finer towards 1, where sparse layers differ."""


def level(value: float) -> int:
    """Returns the colour of a share: the count of `LEVELS` that it has passed.

    >>> level(0.0), level(0.5), level(0.97), level(1.0)
    (0, 2, 6, 8)
    """
    inner = LEVELS[1:-1]
    return sum(value >= bound for bound in inner)


def thinned(series: Series, at_most: int) -> Series:
    """Returns a series of ``at_most`` points, the first and the last among them.

    >>> dots = [(float(n), 0.0) for n in range(101)]
    >>> thinned(Series("a", 0, dots), 5).points
    [(0.0, 0.0), (25.0, 0.0), (50.0, 0.0), (75.0, 0.0), (100.0, 0.0)]
    """
    count = len(series.points)
    if count <= at_most:
        return series
    chosen = [round(n * (count - 1) / (at_most - 1)) for n in range(at_most)]
    return dataclasses.replace(
        series,
        points=[series.points[n] for n in chosen],
        spread=[series.spread[n] for n in chosen] if series.spread else (),
    )

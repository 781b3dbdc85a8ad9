"""Charts as shapes at places, for `svg` and `png`.

A drawing is WIDTH wide, small enough to be read on a phone and to stand three abreast
on a desk. Colours have names here (``s0`` to ``s7`` for series, ``h0`` to ``h8`` for
shares); `colours` has their values.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from fedsparsify_jax.report.charts import LEVELS, TONES, Chart, HeatMap, Series, level
from fedsparsify_jax.report.scales import Scale, axis_label, scale, tick_text

WIDTH = 360.0
LETTER = 6.1  # mean width of a letter at the size below
SIZE = 12.0  # of letters
_LEFT, _RIGHT, _TOP, _PLOT = 48.0, 10.0, 8.0, 196.0
ROW = 33.0  # of heat maps: a label and its strip
_STRIP = 13.0
_LEGEND_ROW = 18.0


@dataclasses.dataclass(frozen=True)
class Line:
    """A line through points, or an area if it is filled."""

    points: Sequence[tuple[float, float]]
    colour: str
    width: float = 1.0
    dashes: tuple[float, ...] = ()
    filled: bool = False
    series: int | None = None  # the tone of the series that it is part of


@dataclasses.dataclass(frozen=True)
class Box:
    """A filled rectangle, or a dot if it is round."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    round: bool = False
    series: int | None = None


@dataclasses.dataclass(frozen=True)
class Text:
    """A line of text; ``anchor`` is start, middle or end."""

    x: float
    y: float
    words: str
    anchor: str = "start"
    colour: str = "quiet"
    bold: bool = False


Shape = Line | Box | Text


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Shapes, their extent, and their scales."""

    height: float
    shapes: list[Shape]
    x: Scale
    y: Scale | None  # heat maps have rows in place of it


def dashes(series: Series) -> tuple[float, ...]:
    """Returns the dashes and gaps of a line, which tell apart those of one colour."""
    if series.dashed:
        return (2.0, 3.0)
    return ((), (6.0, 3.0), (1.5, 2.5), (8.0, 3.0, 2.0, 3.0))[series.tone // TONES % 4]


def colour(series: Series) -> str:
    """Returns the name of a series' colour."""
    return f"s{series.tone % TONES}"


def _axes(chart: Chart, x: Scale, y: Scale) -> Iterator[Shape]:
    right, bottom = WIDTH - _RIGHT, y.start
    for tick in y.ticks:
        yield Line([(_LEFT, y(tick)), (right, y(tick))], "grid")
        words = tick_text(tick, chart.y_kind)
        yield Text(_LEFT - 6, y(tick) + 4, words, "end")
    yield Line([(_LEFT, bottom), (right, bottom)], "axis")
    for tick in x.ticks:
        yield Line([(x(tick), bottom), (x(tick), bottom + 4)], "axis")
        words = tick_text(tick, chart.x_kind)
        # The last number ends where the plot does.
        at = min(x(tick), WIDTH - 2 - LETTER * len(words) / 2)
        yield Text(at, bottom + 17, words, "middle")
    words = axis_label(chart.x_label, chart.x_kind)
    yield Text((_LEFT + right) / 2, bottom + 33, words, "middle")


def _line(series: Series, x: Scale, y: Scale) -> Iterator[Shape]:
    name, gaps, tone = colour(series), dashes(series), series.tone
    if series.level:
        at = y(series.points[0][1])
        yield Line(
            [(x.start, at), (x.stop, at)], name, 1.5, gaps or (5, 3), series=tone
        )
        return
    places = [(x(a), y(b)) for a, b in series.points]
    ranges = [
        (at, y(low), y(high))
        for (at, _), (low, high) in zip(places, series.spread, strict=False)
    ]
    if ranges and not series.marks:
        outline = [(at, high) for at, _, high in ranges]
        outline += [(at, low) for at, low, _ in reversed(ranges)]
        yield Line(outline, name, filled=True, series=tone)
    yield Line(places, name, 1.75, gaps, series=tone)
    if series.marks:
        for at, low, high in ranges:
            yield Line([(at, low), (at, high)], name, 1.25, series=tone)
    if series.marks or len(places) == 1:
        for a, b in places:
            yield Box(a - 3, b - 3, 6, 6, name, round=True, series=tone)


def _legend(chart: Chart, top: float) -> Iterator[Shape]:
    """Draws the legend in rows, filled from left to right."""
    at, row = _LEFT, 0
    for series in chart.series:
        needed = 30 + LETTER * len(series.label)
        if at > _LEFT and at + needed > WIDTH:
            at, row = _LEFT, row + 1
        middle = top + row * _LEGEND_ROW + 8
        yield Line([(at, middle), (at + 18, middle)], colour(series), 2, dashes(series))
        yield Text(at + 24, middle + 4, series.label)
        at += needed + 12


def draw_chart(chart: Chart, *, alone: bool = False) -> Drawing:
    """Returns a chart as shapes.

    Args:
      chart: with a point at least.
      alone: whether it carries its own title and legend, as a file of its own does.
    """
    ys = [b for series in chart.series for _, b in series.points]
    ys += [end for series in chart.series for pair in series.spread for end in pair]
    xs = [a for series in chart.series for a, _ in series.points if not series.level]
    top = _TOP + (44 if alone else 22)
    bottom = top + _PLOT
    x = scale(xs, _LEFT + 6, WIDTH - _RIGHT, kind=chart.x_kind, at_most=5, tight=True)
    y = scale(ys, bottom, top, kind=chart.y_kind)
    shapes: list[Shape] = []
    if alone:
        shapes.append(Text(4, 18, chart.title, colour="ink", bold=True))
    shapes.append(Text(4, top - 14, axis_label(chart.y_label, chart.y_kind)))
    shapes.extend(_axes(chart, x, y))
    for series in chart.series:
        shapes.extend(_line(series, x, y))
    height = bottom + 40
    if alone and len(chart.series) > 1:
        keys = list(_legend(chart, height))
        shapes.extend(keys)
        lowest = [key.y + 8 for key in keys if isinstance(key, Text)]
        height = max([height, *lowest])
    return Drawing(height, shapes, x, y)


def _strip(
    points: Sequence[tuple[float, float]], x: Scale, top: float
) -> Iterator[Box]:
    """Draws one row; neighbours of the same colour are one box."""
    starts = [x(a) for a, _ in points]
    ends = [*starts[1:], x.stop]
    at = 0
    for n, (_, value) in enumerate(points):
        following = points[n + 1][1] if n + 1 < len(points) else None
        if following is None or level(following) != level(value):
            name = f"h{level(value)}"
            yield Box(starts[at], top, ends[n] - starts[at], _STRIP, name)
            at = n + 1


def _key(top: float) -> Iterator[Shape]:
    """Draws the colours of a heat map and the shares where they change."""
    step = (WIDTH - 8) / (len(LEVELS) - 1)
    for n, low in enumerate(LEVELS[:-1]):
        yield Box(4 + n * step, top, step - 1, 9, f"h{n}")
        yield Text(4 + n * step, top + 22, tick_text(low, "percent"))


def draw_heat_map(chart: HeatMap, *, alone: bool = False) -> Drawing:
    """Returns a heat map as shapes: labels above their strips, the key at the end."""
    rounds = [a for _, points in chart.rows for a, _ in points]
    x = scale(rounds, 4, WIDTH - 4, kind="count", tight=True)
    # Extend the axis so that the last round is visible.
    last = max(rounds) + (max(rounds) - min(rounds)) / max(1, len(set(rounds)) - 1)
    x = x._replace(high=max(last, min(rounds) + 1), low=min(rounds))
    top = 30.0 if alone else 4.0
    shapes: list[Shape] = []
    if alone:
        shapes.append(Text(4, 18, chart.title, colour="ink", bold=True))
    for n, (label, points) in enumerate(chart.rows):
        at = top + n * ROW
        shapes.append(Text(4, at + 11, label, colour="ink"))
        shapes.extend(_strip(points, x, at + 15))
    bottom = top + len(chart.rows) * ROW
    for tick in x.ticks:
        shapes.append(Line([(x(tick), bottom - 3), (x(tick), bottom + 1)], "axis"))
        at = min(max(x(tick), 10), WIDTH - 14)
        shapes.append(Text(at, bottom + 13, tick_text(tick, "count"), "middle"))
    shapes.append(Text(WIDTH / 2, bottom + 29, chart.x_label, "middle"))
    shapes.append(Text(4, bottom + 48, "sparsity from (%)"))
    shapes.extend(_key(bottom + 56))
    return Drawing(bottom + 84, shapes, x, None)

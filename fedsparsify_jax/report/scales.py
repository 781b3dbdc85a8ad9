"""Axes: round numbers to mark, and numbers as text."""

import math
from collections.abc import Iterable
from typing import NamedTuple

KINDS = ("number", "percent", "megabytes", "count")
"""Units of an axis; percent is of shares in [0, 1], megabytes of bytes."""

_FACTORS = {"percent": 100.0, "megabytes": 1e-6}


class Scale(NamedTuple):
    """A stretch of numbers laid over a stretch of the drawing."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Returns the place of a value in the drawing."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def nice_step(span: float, at_most: int) -> float:
    """Returns the smallest of 1, 2, 5, 10, ... that makes few enough steps of a span.

    >>> nice_step(1.0, 5), nice_step(7.0, 5), nice_step(190, 4)
    (0.2, 2.0, 50.0)
    """
    power = 10.0 ** math.floor(math.log10(span / at_most))
    for factor in (1, 2, 5, 10):
        if span / (factor * power) <= at_most * (1 + 1e-9):
            return float(f"{factor * power:.12g}")
    raise AssertionError(f"no step for {span}")


def scale(
    values: Iterable[float],
    start: float,
    stop: float,
    *,
    kind: str = "number",
    at_most: int = 5,
    tight: bool = False,
) -> Scale:
    """Returns a scale that holds all values and has round ticks.

    Args:
      values: the values.
      start: place of the lowest in the drawing.
      stop: place of the highest.
      kind: one of `KINDS`; ticks are round in its units.
      at_most: steps between ticks.
      tight: whether it ends at the values, not at ticks.

    Example:
      >>> scale([0.12, 0.93], 0, 100, kind="percent").ticks
      (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """
    factor = _FACTORS.get(kind, 1.0)
    scaled = [value * factor for value in values] or [0.0, 1.0]
    low, high = min(scaled), max(scaled)
    if high - low < 1e-9 * max(1.0, abs(high)):
        pad = 1.0 if kind in ("percent", "count") else max(abs(high), 1e-3) * 0.1
        low, high = low - pad, high + pad
    step = nice_step(high - low, at_most)
    step = max(step, 1.0) if kind == "count" else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    marks = [float(f"{n * step:.12g}") for n in range(first, last + 1)]
    if tight:
        marks = [mark for mark in marks if low <= mark <= high]
    else:
        low, high = marks[0], marks[-1]
    ticks = tuple(float(f"{mark / factor:.12g}") for mark in marks)
    return Scale(low / factor, high / factor, start, stop, ticks)


def tick_text(value: float, kind: str = "number") -> str:
    """Returns a tick's number, short.

    >>> tick_text(0.85, "percent"), tick_text(2.5e8, "megabytes"), tick_text(2000)
    ('85', '250', '2,000')
    """
    shown = float(f"{value * _FACTORS.get(kind, 1.0):.6g}")
    whole = shown == int(shown) and abs(shown) < 1e9
    return f"{shown:,.0f}" if whole else f"{shown:,g}"


def text(value: float | None, kind: str = "number") -> str:
    """Returns a number in full, with its unit.

    >>> text(0.8539, "percent"), text(277676832, "megabytes"), text(None)
    ('85.39 %', '277.68 MB', 'n/a')
    """
    if value is None:
        return "n/a"
    if kind == "percent":
        return f"{100 * value:.2f} %"
    if kind == "megabytes":
        return f"{value / 1e6:,.2f} MB"
    return f"{value:,.0f}" if kind == "count" else f"{value:.4g}"


def axis_label(label: str, kind: str) -> str:
    """Returns an axis' label with its unit.

    >>> axis_label("sparsity", "percent")
    'sparsity (%)'
    """
    units = {"percent": " (%)", "megabytes": " (MB)"}
    return label + units.get(kind, "")

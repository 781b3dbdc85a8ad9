"""The place of a result's channels, for formats that want them in front of space."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Value(NamedTuple):
    """The result of a node in the graph of a file."""

    name: Any  # what the file's graph calls it
    shape: tuple[int, ...]  # of one example, channels last
    first: bool = False  # held with the channels first

    @property
    def is_one_place(self) -> bool:
        """Returns whether space is one place, which lies the same in both orders."""
        return math.prod(self.shape[:-1]) == 1


def axis_of(x: Value, axis: int) -> int:
    """Returns where an axis of an example is in a batch of the file's graph.

    Example:
      >>> x = Value("x", (28, 28, 3), first=True)
      >>> [axis_of(x, axis) for axis in range(3)]
      [2, 3, 1]
    """
    if not x.first or len(x.shape) < 2:
        return axis + 1
    return 1 if axis == len(x.shape) - 1 else axis + 2


def in_order(x: Value, by_axis: Sequence[Any], before: Any) -> list[Any]:
    """Returns what belongs to every axis in the order of the file's graph.

    Args:
      x: the result.
      by_axis: one for every axis of an example.
      before: of the batch axis.
    """
    placed = {axis_of(x, n): value for n, value in enumerate(by_axis)}
    return [before, *(placed[n] for n in sorted(placed))]


def turn(axes: int, *, to_first: bool) -> list[int]:
    """Returns the order of axes that brings channels in front of space, or back.

    Example:
      >>> turn(3, to_first=True), turn(3, to_first=False)
      ([0, 3, 1, 2], [0, 2, 3, 1])
    """
    space = list(range(1, axes))
    return [0, axes, *space] if to_first else [0, *[n + 1 for n in space], 1]

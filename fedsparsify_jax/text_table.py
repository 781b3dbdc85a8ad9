"""Tables as text: aligned columns for a terminal, or Markdown."""

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$&!])")


def aligned(
    head: Sequence[str], rows: Iterable[Sequence[str]], sides: str = "<>"
) -> str:
    """Returns a table with columns as wide as their longest cell, two spaces apart.

    Args:
      head: a title a column.
      rows: their cells, as many a row as there are titles.
      sides: ``<`` for a column of words, ``>`` for one of numbers; the last one holds
        for all that follow.

    Example:
      >>> print(aligned(["method", "90 %"], [["Global", "87.1"]]))
      method  90 %
      Global  87.1
    """
    lines = [head, *rows]
    columns = zip(*lines, strict=True)
    sides = sides.ljust(len(head), sides[-1])
    formats = [
        f"{side}{max(map(len, column))}"
        for side, column in zip(sides, columns, strict=True)
    ]
    return "\n".join("  ".join(map(format, line, formats)).rstrip() for line in lines)


def markdown(
    head: Sequence[str], rows: Iterable[Sequence[str]], sides: str = "<>"
) -> str:
    """Returns the same table as Markdown, with cells as they are: nothing is escaped.

    >>> print(markdown(["method", "90 %"], [["Global", "87.1"]]))
    | method | 90 % |
    | :-- | --: |
    | Global | 87.1 |
    """
    sides = sides.ljust(len(head), sides[-1])
    rule = [":--" if side == "<" else "--:" for side in sides]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def plain(words: str) -> str:
    """Returns text that Markdown shows as it is, on one line.

    >>> plain("a_b | <b>")
    'a\\\\_b \\\\| \\\\<b\\\\>'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(words.split()))

"""A report as Markdown, with its figures beside it."""

import re
from collections.abc import Iterator, Sequence

from fedsparsify_jax.report.charts import Figure
from fedsparsify_jax.report.content import Block, Report
from fedsparsify_jax.report.tables import Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$&!])")


def plain(words: str) -> str:
    """Text that Markdown takes as it is, on one line.

    >>> plain("a_b | <b>")
    'a\\\\_b \\\\| \\\\<b\\\\>'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(words.split()))


def file_names(figures: Sequence[Figure]) -> dict[int, str]:
    """A name for each figure's file, without its ending, by `id`.

    >>> from fedsparsify_jax.report.charts import HeatMap
    >>> list(file_names([HeatMap("Test loss: iid", "", ())]).values())
    ['01-test-loss-iid']
    """
    names = {}
    for n, figure in enumerate(figures, 1):
        words = re.sub(r"[^a-z0-9.]+", "-", figure.title.lower()).strip("-.")
        names[id(figure)] = f"{n:02}-{words[:80]}".rstrip("-.")
    return names


def figures_of(report: Report) -> list[Figure]:
    """All figures, in order."""
    return [
        figure
        for section in report.sections
        for block in section.blocks
        for figure in block.figures
    ]


def _table(table: Table) -> Iterator[str]:
    numbers = [
        any(row[column].value is not None for row in table.rows)
        for column in range(len(table.head))
    ]
    yield f"**{plain(table.title)}**\n"
    yield "| " + " | ".join(map(plain, table.head)) + " |"
    yield "|" + "|".join("---:" if number else "---" for number in numbers) + "|"
    for row in table.rows:
        yield "| " + " | ".join(plain(cell.words) for cell in row) + " |"
    yield ""
    if table.note:
        yield plain(table.note) + "\n"


def _block(block: Block, names: dict[int, str], folder: str) -> Iterator[str]:
    if block.title:
        yield f"### {plain(block.title)}\n"
    for figure in block.figures:
        title = plain(figure.title)
        yield f"![{title}]({folder}/{names[id(figure)]}.svg)\n"
    for table in block.tables:
        yield from _table(table)


def markdown(report: Report, folder: str = "figures") -> str:
    """The whole text.

    Args:
      report: what to say.
      folder: where its figures are, as links name it.
    """
    names = file_names(figures_of(report))
    lines = [f"# {plain(report.title)}\n", plain(report.subtitle) + "\n"]
    for name, value, remark in report.tiles:
        lines.append(f"* {plain(name)}: **{plain(value)}** ({plain(remark)})")
    lines.append("")
    for section in report.sections:
        lines.append(f"## {plain(section.title)}\n")
        lines.extend(plain(words) + "\n" for words in section.words)
        for block in section.blocks:
            lines.extend(_block(block, names, folder))
    return "\n".join(lines).rstrip() + "\n"

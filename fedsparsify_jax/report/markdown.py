"""A report as Markdown, with its figures beside it."""

import re
from collections.abc import Iterator, Sequence

from fedsparsify_jax import text_table
from fedsparsify_jax.report.charts import Figure
from fedsparsify_jax.report.content import Block, Report
from fedsparsify_jax.report.tables import Table
from fedsparsify_jax.text_table import plain


def file_names(figures: Sequence[Figure]) -> dict[int, str]:
    """Returns a name for each figure's file, without its ending, by `id`.

    >>> from fedsparsify_jax.report.charts import HeatMap
    >>> list(file_names([HeatMap("Test loss: iid", "", ())]).values())
    ['01-test-loss-iid']
    """
    names = {}
    for n, figure in enumerate(figures, 1):
        words = re.sub(r"[^a-z0-9.]+", "-", figure.title.lower()).strip("-.")
        names[id(figure)] = f"{n:02}-{words[:80]}".rstrip("-.")
    return names


def _table(table: Table) -> Iterator[str]:
    rows = [[plain(cell.words) for cell in row] for row in table.rows]
    sides = "".join("<>"[numeric] for numeric in table.numeric)
    yield f"**{plain(table.title)}**\n"
    yield text_table.markdown(list(map(plain, table.head)), rows, sides) + "\n"
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
    """Returns the whole text.

    Args:
      report: the report.
      folder: that of its figures, as links name it.
    """
    names = file_names(report.figures)
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

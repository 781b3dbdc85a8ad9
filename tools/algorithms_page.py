"""Writes the tables of docs/algorithms.md from the registration and the files' headers.

    python tools/algorithms_page.py           # writes them anew
    python tools/algorithms_page.py --check   # exit 1 if they are out of date

A row has the algorithm's name, the first line of its file, the papers named there, and
its options with their defaults; those that FedSparsify-Global has too are left out
where there is a schedule. Its deviations are the paragraph of that name there.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from fedsparsify_jax.algorithms.registry import ALGORITHMS, Row
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.registry import KEYWORDS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "algorithms.md"
REFERENCE = "fedsparsify-global"
OPTIONS = {keyword: field for field, keyword in KEYWORDS.items()}


def header_of(row: Row) -> str:
    """Returns the docstring of an algorithm's file."""
    return inspect.getdoc(inspect.getmodule(row.build)) or ""


def papers(header: str) -> str:
    """Returns links to the papers that a header cites.

    >>> papers("arXiv 1308.3432 and arXiv 1308.3432, arXiv\\n2102.04010")
    '[1308.3432](https://arxiv.org/abs/1308.3432), [2102.04010](https://arxiv.org/abs/2102.04010)'
    """
    numbers = dict.fromkeys(re.findall(r"arXiv\s+(\d{4}\.\d{4,5})", header))
    return ", ".join(f"[{n}](https://arxiv.org/abs/{n})" for n in numbers)


def deviations(header: str) -> str:
    """Returns the paragraph on deviations as one line.

    >>> deviations("A.\\n\\nDeviations: none\\nknown.\\n\\nChecked against: b.")
    'none known.'
    """
    paragraph = re.search(r"^Deviations.*?:\s+(.*?)(?:\n\n|\Z)", header, re.M | re.S)
    return " ".join(paragraph[1].split()) if paragraph else "none."


def text(value: Any) -> str:
    """Returns a default as one types it; "" if the file chooses it."""
    if value is None or callable(value):
        return ""
    if isinstance(value, bool):
        return " on" if value else " off"
    if isinstance(value, tuple | list):
        return " " + ",".join(map(str, value))
    return f" {value:g}" if isinstance(value, float) else f" {value}"


def options(row: Row) -> str:
    """Returns the options of an algorithm with their defaults."""
    reference = ALGORITHMS[REFERENCE]
    # What only has a final sparsity has no schedule.
    as_reference = "exponent" in row.parameters and row is not reference
    shared = reference.parameters if as_reference else {}
    parts = []
    for name, parameter in row.parameters.items():
        if name not in OPTIONS or name == "rounds":
            continue
        if name in shared and name not in row.defaults:
            continue
        field = OPTIONS[name]
        default = row.defaults.get(name, getattr(TrainConfig, field))
        if default is None and parameter.default is not parameter.empty:
            default = parameter.default
        parts.append(f"`--{field.replace('_', '-')}{text(default)}`")
    for name, default in row.defaults.items():
        if name not in row.parameters:
            field = OPTIONS.get(name, name)
            parts.append(f"`--{field.replace('_', '-')}{text(default)}`")
    return ", ".join(["as Global"] * as_reference + parts)


def table() -> list[str]:
    """Returns the table's lines."""
    lines = [
        "| `--algorithm` | in a line | arXiv | options and their defaults |",
        "|---|---|---|---|",
    ]
    for name, row in ALGORITHMS.items():
        header = header_of(row)
        title = header.splitlines()[0].partition(": ")[2].rstrip(".")
        cells = (f"`{name}`", title, papers(header), options(row))
        lines.append("| " + " | ".join(cells).replace("  ", " ") + " |")
    return lines


def differences() -> list[str]:
    """Returns a line on the deviations of every file."""
    lines = []
    for module, names in by_file().items():
        words = deviations(header_of(ALGORITHMS[names[0]]))
        lines.append(
            f"* {', '.join(f'`{name}`' for name in names)} ({module}): {words}"
        )
    return lines


def by_file() -> dict[str, list[str]]:
    """Returns the algorithms of every file."""
    files: dict[str, list[str]] = {}
    for name, row in ALGORITHMS.items():
        files.setdefault(Path(inspect.getfile(row.build)).name, []).append(name)
    return files


def page(old: str) -> str:
    """Returns the page with its generated parts as they are now."""
    for part, lines in (("table", table()), ("deviations", differences())):
        start, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->"
        head, _, behind = old.partition(start)
        _, found, tail = behind.partition(end)
        if not found:
            raise SystemExit(f"docs/algorithms.md has no place for its {part}")
        old = head + start + "\n".join(lines) + "\n" + end + tail
    return old


def main() -> int:
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if "--check" in sys.argv[1:]:
        return int(new != old)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Reads this package's docstrings as they are written, for the documentation site.

Doctests and tables stand in docstrings without fences, and the fields of records are
documented by comments, beside the field or above it. This is where a Griffe extension
turns both into what mkdocstrings renders.
"""

import ast
import re
from typing import Any

import griffe

# A doctest, or a table ruled with "===", up to the next empty line.
BLOCK = re.compile(r"^( *)(>>>|===)(?:.*\n?)(?:(?! *\n).+\n?)*", re.M)
# The parameters of a callable that a protocol or an alias describes.
CALL = re.compile(r"^( *)Args of a call:\n((?:\1 +.*\n|\n)+)", re.M)
ITEM = re.compile(r"^ +(\w+): ", re.M)


def fenced(match: re.Match[str]) -> str:
    """Returns a block of a docstring as fenced code."""
    indent, language = match[1], "pycon" if match[2] == ">>>" else "text"
    return f"\n{indent}```{language}\n{match[0].rstrip()}\n{indent}```\n"


def as_list(match: re.Match[str]) -> str:
    """Returns the parameters of a call as a list."""
    items = re.sub(r"^ +", f"{match[1]}  ", match[2], flags=re.M)
    items = ITEM.sub(lambda item: f"{match[1]}* `{item[1]}`: ", items)
    return f"{match[1]}Parameters of a call:\n\n{items}"


def comment_of(lines: list[str], first: int, last: int) -> str:
    """Returns the comment beside lines ``first`` to ``last``, or the one above them."""
    _, _, beside = lines[last - 1].partition("  # ")
    if beside:
        return beside
    above: list[str] = []
    for line in reversed(lines[: first - 1]):
        if not line.strip().startswith("# "):
            break
        above.insert(0, line.strip().removeprefix("# "))
    return " ".join(above)


class Docstrings(griffe.Extension):
    """The extension, see the module."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fences the blocks of a docstring."""
        if obj.docstring:
            text = CALL.sub(as_list, obj.docstring.value + "\n")
            obj.docstring.value = BLOCK.sub(fenced, text).rstrip()

    def on_attribute_instance(
        self, *, attr: griffe.Attribute, node: ast.AST | griffe.ObjectNode, **_: Any
    ) -> None:
        """Takes the comment of a record's field as its docstring."""
        if attr.docstring or not (attr.parent and attr.parent.is_class):
            return
        if isinstance(node, ast.AnnAssign) and node.end_lineno:
            lines = attr.lines_collection[attr.filepath]
            text = comment_of(lines, node.lineno, node.end_lineno)
            if text:
                attr.docstring = griffe.Docstring(text, parent=attr)

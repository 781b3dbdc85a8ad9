"""The README of a project for Flower: a server and its nodes, command by command."""

from pathlib import Path


def text() -> str:
    """Returns the README of a project.

    >>> text().splitlines()[0]
    '# A federation over Flower'
    """
    return Path(__file__).with_suffix(".md").read_text(encoding="utf-8")

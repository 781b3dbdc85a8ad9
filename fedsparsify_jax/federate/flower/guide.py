"""The README of a project for Flower."""


def text() -> str:
    """Returns the README of a project."""
    return "# A federation over Flower\n"

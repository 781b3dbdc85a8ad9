"""Checks of a graph's description, which may come from a damaged or hostile file."""

import math
from collections.abc import Collection
from typing import Any

from fedsparsify_jax.errors import InputError, shown

MOST_NODES = 10_000
"""Layers that a file may describe; ResNet-56 has 200."""
MOST_NUMBERS = 2**30
"""Numbers that a layer's result for one example may have."""


def check_nodes(content: Any, kinds: Collection[str]) -> None:
    """Checks the form of a description: its fields, their types, the order of nodes.

    Raises:
      InputError: naming the first layer that is wrong.
    """
    if not isinstance(content, list) or not 1 <= len(content) <= MOST_NODES:
        raise InputError(f"the layers are no list of 1 to {MOST_NODES:,}")
    for number, entry in enumerate(content):
        complaint = _complaint(number, entry, kinds)
        if complaint:
            raise InputError(f"layer {number} {complaint}")


def _complaint(number: int, entry: Any, kinds: Collection[str]) -> str:
    """Returns what is wrong with a layer; "" if nothing is."""
    fields = {"kind": str, "inputs": list, "shape": list, "settings": dict, "name": str}
    if not isinstance(entry, dict) or set(entry) != set(fields):
        return f"has not the fields {', '.join(fields)}"
    for name, kind in fields.items():
        if not isinstance(entry[name], kind):
            return f"has the {name} {shown(entry[name])}"
    if entry["kind"] not in kinds or (entry["kind"] == "input") != (number == 0):
        return f"is of the kind {shown(entry['kind'])}"
    if not all(_is_number(source, number) for source in entry["inputs"]):
        return f"reads {shown(entry['inputs'])}: only earlier ones can be read"
    if bool(entry["inputs"]) == (number == 0):
        return "reads nothing" if number else "is the input, and reads others"
    sizes = entry["shape"]
    if not sizes or not all(_is_number(size, MOST_NUMBERS) for size in sizes):
        return f"has the shape {shown(sizes)}"
    if not 0 < math.prod(sizes) <= MOST_NUMBERS:
        return f"has the shape {shown(sizes)}"
    return ""


def _is_number(value: Any, below: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below

"""Federations of a table: a panel of every figure each, and a block of pages."""

import dataclasses
import itertools
from typing import Any

from experiments.lib.table import Table

PARTITIONS = {
    "iid": "IID",
    "label-shards": "non-IID, some classes a client",
    "value-skew": "non-IID, sorted by value",
}
_NAMES = {
    "partition": PARTITIONS,
    "client_sizes": {"uniform": "clients of one size", "skewed": "sizes skewed"},
}
"""Axes that are shown side by side, and their values' names for readers."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """A federation: its name in names of blocks, its title, and its options."""

    key: str
    title: str
    point: dict[str, Any]


def panels(table: Table, preset: str) -> list[Panel]:
    """Returns all federations of a table; sizes are named if there are several.

    >>> from experiments.tables.brain_age import TABLE
    >>> [panel.key for panel in panels(TABLE, "paper")]
    ['iid-uniform', 'iid-skewed', 'value-skew-uniform', 'value-skew-skewed']
    >>> panels(TABLE, "paper")[3].title
    'non-IID, sorted by value, sizes skewed'
    """
    fields = [field for field in _NAMES if field == "partition" or field in table.axes]
    axes = {field: table.axis(field, preset) for field in fields}
    named = [field for field in fields if field == "partition" or len(axes[field]) > 1]
    federations = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(fields, values, strict=True))
        key = "-".join(point[field] for field in named)
        titles = [_NAMES[field].get(point[field], point[field]) for field in named]
        federations.append(Panel(key, ", ".join(titles), point))
    return federations

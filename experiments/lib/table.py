"""Parts of a table: rows, axes and presets, all of them frozen.

A row is a method, or a variant of one: options of ``fedsparsify train``. The axes are
options with several values. Row by row their product is a grid that ``fedsparsify
sweep`` runs. Every option is traced or static: traced ones (`schema.TRACED`) and
seeds differ within one compiled program, each combination of the others is a program.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedsparsify_jax.errors import InputError, unknown
from fedsparsify_jax.runner import TrainConfig
from fedsparsify_jax.runner.options.listing import NOT_COMPARED, having
from fedsparsify_jax.runner.options.registry import unused
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.schema import TRACED

Options = Mapping[str, Any]
"""Options of ``train`` to one value each, or to several on an axis."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A method as a table shows it; ``Row("snip", "SNIP", {"algorithm": "snip"})``."""

    key: str  # its directory, and its name for --only
    label: str  # what the reader sees
    options: Options
    of: str | None = None  # the table that measures it, if that is another one


@dataclasses.dataclass(frozen=True)
class Preset:
    """A size of a table: options and axes to replace, and rows to choose."""

    time: str  # expected, for people
    options: Options = dataclasses.field(default_factory=dict)
    rows: tuple[str, ...] | None = None  # all of them by default


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: every row under every combination of the axes."""

    name: str
    title: str
    rows: tuple[Row, ...]
    options: Options
    axes: Mapping[str, tuple[Any, ...]]
    presets: Mapping[str, Preset]
    reference: str = "fedsparsify-global"  # the row that others are compared with
    metric: str = "accuracy"  # or "mae", of which less is better
    layers: Options = dataclasses.field(default_factory=lambda: {"seed": ()})
    """Cells that match keep the curves of their layers; none by default."""
    audit: Options | None = None
    """Options of ``fedsparsify audit``, which all runs then have beside them."""

    def preset(self, name: str) -> Preset:
        """Returns a preset by name.

        Raises:
          InputError: for a name that the table does not have.
        """
        if name not in self.presets:
            raise unknown("preset", name, list(self.presets))
        return self.presets[name]

    def chosen(self, preset: str) -> list[Row]:
        """Returns the rows of a preset."""
        keys = self.preset(preset).rows
        return [row for row in self.rows if keys is None or row.key in keys]

    def row(self, key: str) -> Row:
        """Returns a row by key."""
        return next(row for row in self.rows if row.key == key)

    def axis(self, field: str, preset: str) -> tuple[Any, ...]:
        """Returns an axis' values; a single option is an axis of one value."""
        every = {**self.options, **self.axes, **self.preset(preset).options}
        value = every[field]
        return tuple(value) if isinstance(value, list | tuple) else (value,)

    def grid(self, row: Row, preset: str) -> dict[str, tuple[Any, ...]]:
        """Returns the options of a row's sweep, each with all its values."""
        fields = {**self.options, **self.axes, **self.preset(preset).options}
        values = {field: self.axis(field, preset) for field in fields}
        return values | {field: (value,) for field, value in row.options.items()}

    def points(self, row: Row, preset: str) -> Iterator[dict[str, Any]]:
        """Yields every combination of a row's grid, seeds innermost."""
        grid = self.grid(row, preset)
        fields = sorted(grid, key=lambda field: field == "seed")
        for values in itertools.product(*(grid[field] for field in fields)):
            yield dict(zip(fields, values, strict=True))

    def cells(self, preset: str) -> dict[str, dict[str, Any]]:
        """Returns the cells that this table measures: identity to options, in order."""
        cells: dict[str, dict[str, Any]] = {}
        for row in self.chosen(preset):
            if row.of is None:
                for point in self.points(row, preset):
                    cells.setdefault(identity(point), point)
        return cells


def identity(options: Options) -> str:
    """Returns a text that is the same for runs that compute the same.

    Options that change nothing, that the algorithm has no use for, or that say where
    the data are, are left out; options that are not given have the values that
    ``train`` gives them.

    Raises:
      InputError: for options that ``train`` does not have or would refuse.

    Example:
      >>> dense = {"dataset": "digits", "algorithm": "fedavg"}
      >>> identity(dense) == identity({**dense, "final_sparsity": 0.8, "devices": 1})
      True
    """
    deciding = {key: options[key] for key in options if key not in NOT_COMPARED}
    return _identity(tuple(sorted(deciding.items())))


@functools.lru_cache(maxsize=10_000)
def _identity(given: tuple[tuple[str, Any], ...]) -> str:
    options = dict(given)
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    if strange := sorted(set(options) - known):
        raise InputError(
            f"{', '.join(strange)}: no option of train in this version of the library"
        )
    config = resolve(TrainConfig(**options))
    values = dataclasses.asdict(config)
    untouched = dataclasses.asdict(resolve(TrainConfig(dataset=config.dataset)))
    for field in unused(values, untouched):
        values[field] = untouched[field]
    skip = (*NOT_COMPARED, "data_dir")
    kept = {field: value for field, value in values.items() if field not in skip}
    return json.dumps(kept, sort_keys=True, default=str)


def restrict(table: Table, preset: str, only: Sequence[str]) -> Table:
    """Returns the table with fewer rows and values.

    Args:
      table: all of it.
      preset: its size.
      only: keys of rows, and ``option=value`` for values of an axis.

    Raises:
      InputError: for what the table does not have.

    Example:
      >>> from experiments.tables.fashion_mnist import TABLE
      >>> less = restrict(TABLE, "paper", ["snip", "final_sparsity=0.9"])
      >>> [row.key for row in less.rows], less.axis("final_sparsity", "paper")
      (['snip'], (0.9,))
    """
    keys = [word for word in only if "=" not in word]
    there = [row.key for row in table.chosen(preset)]
    for key in keys:
        if key not in there:
            raise unknown("row", key, there)
    kept: dict[str, list[Any]] = {}
    for word in only:
        if "=" in word:
            field, _, value = word.partition("=")
            kept.setdefault(field, []).append(_value(table, preset, field, value))
    size = table.preset(preset)
    size = dataclasses.replace(size, options={**size.options, **kept})
    rows = tuple(row for row in table.rows if not keys or row.key in keys)
    presets = {**table.presets, preset: size}
    return dataclasses.replace(table, rows=rows, presets=presets)


def _value(table: Table, preset: str, field: str, text: str) -> Any:
    every = {**table.options, **table.axes, **table.preset(preset).options}
    if field not in every:
        raise unknown("option", field, list(every))
    values = table.axis(field, preset)
    for value in values:
        if str(value) == text or (isinstance(value, float) and _same(value, text)):
            return value
    raise unknown(f"value of {field}", text, [str(value) for value in values])


def _same(value: float, text: str) -> bool:
    try:
        return value == float(text)
    except ValueError:
        return False


def traced(field: str) -> bool:
    """Returns whether an option's values can share one compiled program.

    >>> traced("final_sparsity"), traced("seed"), traced("partition")
    (True, True, False)
    """
    return field in (*having(TRACED), "seed")

"""Runs of a table: every row's grid with the library's own sweep.

A row has a directory, ``experiments/runs/TABLE-PRESET/ROW``, that ``fedsparsify sweep``
writes and continues: a finished cell is never run again.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.lib import auditing, collecting, provenance
from experiments.lib.table import Row, Table, identity, traced
from fedsparsify_jax.runner import SweepConfig, sweep

HERE = Path(__file__).resolve().parents[1]


def directory(table: Table, preset: str, runs: Path) -> Path:
    """Returns the directory of a table's sweeps."""
    return runs / f"{table.name}-{preset}"


def run(
    table: Table,
    preset: str,
    console: Console,
    runs: Path = HERE / "runs",
    data_dir: Path | None = None,
    finished: Collection[str] = (),
) -> None:
    """Trains what is not finished yet, and audits it if the table says so.

    Args:
      table: all of a table, or a part of it.
      preset: its size.
      console: where progress goes.
      runs: the directory for all tables.
      data_dir: where the data set is, for those that need it.
      finished: identities of cells to leave out, because there are results of them.

    Raises:
      InputError: from the sweep.
    """
    home = directory(table, preset, runs)
    for row in table.chosen(preset):
        grid = _lacking(table, row, preset, finished) if row.of is None else None
        if grid is not None:
            console.print(f"\n{table.name}-{preset}: {row.label}", markup=False)
            provenance.record(home)
            sweep(_config(grid, home / row.key, data_dir), console)
            if table.audit is not None:
                finished_runs = list(collecting.runs([home / row.key]))
                auditing.audit_all(finished_runs, table.audit, console, data_dir)


Grid = dict[str, tuple[Any, ...]]


def _lacking(
    table: Table, row: Row, preset: str, finished: Collection[str]
) -> Grid | None:
    """Returns the smallest grid with all cells of a row that are not finished."""
    missing = [p for p in table.points(row, preset) if identity(p) not in finished]
    if not missing:
        return None
    return {
        field: tuple(v for v in values if any(p[field] == v for p in missing))
        for field, values in table.grid(row, preset).items()
    }


def _config(grid: Grid, out: Path, data_dir: Path | None) -> SweepConfig:
    if data_dir is not None:
        grid = {**grid, "data_dir": (data_dir,)}
    words = {field: tuple(map(str, values)) for field, values in grid.items()}
    return SweepConfig(**words, out=out)


def describe(table: Table) -> str:
    """Returns a table's presets and options, for ``--list``.

    Options with several values are marked as traced, so that one
    compiled program has all of them, or static, a program each.
    """
    lines = [f"{table.name}: {table.title}"]
    for name, preset in table.presets.items():
        cells = len(table.cells(name))
        lines.append(f"  --preset {name}: {cells} runs, {preset.time}")
    lines.append("  rows: " + ", ".join(row.key for row in table.rows))
    for field, values in table.axes.items():
        kind = "traced" if traced(field) else "static"
        lines.append(f"  {field} ({kind}): " + ", ".join(map(str, values)))
    return "\n".join(lines)

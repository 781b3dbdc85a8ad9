"""From run directories to lines of JSON: one line a finished cell.

options     all options that have a value, resolved
seed, commit, dirty, machine, versions, seconds
metric      accuracy or mae, and its value: final, best; last_5 where it is not that of
            the curve, for models that were trained on after the last round
parameters, kept, sparsity, target_sparsity
client_...  mean and worst tenth of the clients' accuracies, where they were evaluated
bytes       both ways, by the authors' formula, and what of them is up (in lines since
            uploads can be compressed); bytes_with_masks adds one bit for every
            prunable number of every message; bytes_dense without pruning
audit       of every attack its AUC, advantage and TPRs with their intervals, in tables
            whose runs are audited
curves      the metric after every round; sparsity and bytes so far every ``every``
            rounds, and what each layer keeps (and kept in round 1) where a figure
            needs that
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.lib import auditing
from experiments.lib.provenance import of_run
from experiments.lib.table import Table, identity
from fedsparsify_jax.runner.options.listing import NOT_COMPARED
from fedsparsify_jax.runner.storage.run_directory import write_whole

Line = dict[str, Any]

EVERY = 5
"""Rounds between two points of the smooth curves."""


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def runs(directories: Sequence[Path]) -> Iterator[Path]:
    """Yields the finished runs in and below some directories."""
    for directory in directories:
        for summary in sorted(directory.rglob("summary.json")):
            if (summary.parent / "config.json").exists():
                yield summary.parent


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def _thinned(column: Sequence[Any]) -> list[Any]:
    """Returns rounds EVERY, 2 EVERY, ... and the last one."""
    last = len(column) - 1
    return [v for n, v in enumerate(column) if (n + 1) % EVERY == 0 or n == last]


def _curves(records: Sequence[dict[str, Any]], metric: str, layers: bool) -> Line:
    moved = itertools.accumulate(r["bytes_up"] + r["bytes_down"] for r in records)
    curves: Line = {
        metric: [_rounded(record[f"test_{metric}"]) for record in records],
        "every": EVERY,
        "sparsity": _thinned([_rounded(record["sparsity"]) for record in records]),
        "bytes": _thinned(list(moved)),
    }
    if layers:
        curves["layers_first"] = records[0]["kept"]
        curves["layers"] = {
            name: _thinned([record["kept"][name] for record in records])
            for name in records[0]["kept"]
        }
    return curves


def line(run: Path, layers: bool = False) -> Line:
    """Returns a finished run as a line.

    Args:
      run: its directory.
      layers: whether to keep what each layer keeps.
    """
    config, summary = _read(run / "config.json"), _read(run / "summary.json")
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    records = [json.loads(row) for row in text.splitlines()]
    metric = "mae" if "test_mae" in summary else "accuracy"
    options = {
        field: value
        for field, value in config["options"].items()
        if value is not None and field not in (*NOT_COMPARED, "data_dir")
    }
    judged = {}
    if "before_post_training" in summary:  # the rounds' models are not the result
        judged = {"last_5": summary[f"test_{metric}"]}
    of_clients = {f"client_accuracy_{name}" for name in ("mean", "worst_decile")}
    judged |= {name: summary[name] for name in sorted(of_clients & summary.keys())}
    return {
        "options": options,
        "seed": options["seed"],
        **of_run(run),
        "versions": config["versions"],
        "seconds": round(summary["seconds"], 2),
        "metric": metric,
        "final": summary[f"test_{metric}"],
        "best": summary[f"best_test_{metric}"],
        **judged,
        "parameters": summary["parameters"],
        "kept": summary["parameters_kept"],
        "sparsity": summary["sparsity"],
        "target_sparsity": summary["target_sparsity"],
        "bytes": summary["bytes_up"] + summary["bytes_down"],
        "bytes_up": summary["bytes_up"],
        "bytes_with_masks": summary["bytes_with_masks"],
        "bytes_dense": summary["bytes_dense"],
        "curves": _curves(records, metric, layers),
    }


def read_lines(path: Path) -> dict[str, Line]:
    """Returns the lines of a file by identity; none if there is no such file."""
    if not path.exists():
        return {}
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {identity(row["options"]): row for row in rows}


def collect(table: Table, preset: str, directories: Sequence[Path], path: Path) -> int:
    """Writes the table's finished cells to a file, in the table's order.

    A cell that only the file has stays as it is, so that results outlive the
    directories they came from; a directory that is there replaces the line.

    Returns:
      How many cells of the table have a line now.
    """
    cells, lines = table.cells(preset), read_lines(path)
    for run in runs(directories):
        name = identity(_read(run / "config.json")["options"])
        if name in cells and (judged := _audited(table, run)) is not None:
            point = cells[name]
            match = all(point.get(k) in _several(v) for k, v in table.layers.items())
            lines[name] = line(run, layers=match) | judged
    present = [lines[name] for name in cells if name in lines]
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in present)
    if text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    return len(present)


def _audited(table: Table, run: Path) -> Line | None:
    """Returns what a line has of a run's audit; None where one is still to be made."""
    if table.audit is None:
        return {}
    attacks = auditing.measures(run, table.audit)
    return None if attacks is None else {"audit": attacks}


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)

"""Reading of run directories: finished, going on, or damaged.

No content of a file is trusted: a value of the wrong kind counts as missing, and the
report lists what is missing.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedsparsify_jax.errors import InputError

Record = dict[str, Any]

_RUN_FILES = ("config.json", "metrics.jsonl", "summary.json")
_SWEEP_FILE = "sweep.json"


FORGETTING = ("forget_fraction", "learned_fraction", "clients_forget_fraction")
"""Shares of examples by round that a summary has, see `metrics.forgetting`."""

LAST = 10
"""Evaluations in the late mean."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The content of one run directory."""

    path: Path
    name: str
    options: dict[str, Any]
    versions: dict[str, Any]
    records: list[Record]
    summary: dict[str, Any] | None
    sizes: dict[str, int]  # prunable tensors and how many numbers they have
    partition: dict[str, Any] | None
    missing: tuple[str, ...]

    @functools.cached_property
    def metric(self) -> str:
        """Returns ``accuracy`` or ``mae``, by which its rounds are judged."""
        return "mae" if "test_mae" in self.rounds else "accuracy"

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @functools.cached_property
    def rounds(self) -> pd.DataFrame:
        """Returns the numbers of every record, and ``moved`` bytes, both ways.

        A row is a round. Missing numbers are NaN; ``moved_so_far`` ends where a round
        lacks its bytes.
        """
        index = pd.Index([record["round"] for record in self.records], dtype=float)
        rows = [{k: v for k, v in r.items() if k != "kept"} for r in self.records]
        table = pd.DataFrame(rows, index, dtype=float)
        ways = table.reindex(columns=["bytes_up", "bytes_down"])
        table["moved"] = ways.sum(axis=1, skipna=False)
        table["moved_so_far"] = table["moved"].cumsum(skipna=False)
        return table.join(_forgetting(self.summary))

    @functools.cached_property
    def layers(self) -> pd.DataFrame:
        """Returns the sparsity of every parameter, a row a round."""
        rows = [record["kept"] for record in self.records]
        inside = {n: s for n, s in self.sizes.items() if n.startswith("params/")}
        sizes = pd.Series(inside or self.sizes, dtype=float)
        table = pd.DataFrame(rows, self.rounds.index, dtype=float)
        return (1 - table.reindex(columns=sizes.index) / sizes).clip(0, 1)

    @functools.cached_property
    def figures(self) -> dict[str, float]:
        """Returns evaluations, sparsity, bytes and seconds, as far as there are any."""
        summed = self.rounds.reindex(columns=["moved", "bytes_dense", "seconds"])
        moved, dense, seconds = summed.sum(skipna=False, min_count=1)
        sparsity = self.rounds.reindex(columns=["sparsity"])["sparsity"]
        figures = {
            "final": self.evaluated.iloc[-1:].sum(min_count=1),
            "last_10": self.evaluated.iloc[-LAST:].mean(),
            # Chosen on the test set: it flatters.
            "best": self.evaluated.agg("min" if self.metric == "mae" else "max"),
            "clients": self._last("client_accuracy_mean"),
            "worst_clients": self._last("client_accuracy_worst_decile"),
            "epsilon": self._last("epsilon"),
            "sparsity": sparsity.iloc[-1:].sum(min_count=1),
            "bytes": moved,
            "saving": dense / moved if moved else math.nan,
            "seconds": seconds,
        }
        return {k: float(v) for k, v in figures.items() if not math.isnan(v)}

    def _last(self, column: str) -> float:
        """Returns the last number in a column, NaN if there is none."""
        known = self.rounds.reindex(columns=[column])[column].dropna()
        return float(known.iloc[-1]) if len(known) else math.nan

    @functools.cached_property
    def evaluated(self) -> pd.Series:
        """Returns the evaluations by round."""
        name = f"test_{self.metric}"
        return self.rounds.reindex(columns=[name])[name].dropna()


def _forgetting(summary: Mapping[str, Any] | None) -> pd.DataFrame:
    """Returns what the summary says of forgetting, by round; nothing if it says none.

    >>> one = {"rounds": [1, 2], "forget_fraction": [0.25, 0]}
    >>> _forgetting({"forgetting": one})["forget_fraction"].tolist()
    [0.25, 0.0]
    """
    content = (summary or {}).get("forgetting")
    of = content if isinstance(content, dict) else {}
    numbers = {
        field: [number(value) for value in of[field]]
        for field in ("rounds", *FORGETTING)
        if isinstance(of.get(field), list)
    }
    rounds = numbers.pop("rounds", [])
    whole = {field: v for field, v in numbers.items() if len(v) == len(rounds)}
    table = pd.DataFrame(whole, pd.Index(rounds, dtype=float), dtype=float)
    return table[~table.index.duplicated() & table.index.notna()]


def printable(text: str) -> str:
    """Returns text without control characters and lone surrogates.

    >>> printable("a\\tb\\x00\\ud800")
    'a b��'
    """
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def _tidy(value: Any) -> Any:
    """Returns JSON values with printable text."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _tidy(item) for key, item in value.items()}
    return value


def _object(path: Path) -> dict[str, Any] | None:
    """Returns a file's JSON object, None if it has no readable one."""
    try:
        content = _tidy(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def number(value: Any) -> float | None:
    """Returns a finite number as it is, None for anything else.

    >>> number(0.5), number("0.5"), number(float("nan")), number(True)
    (0.5, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Whole numbers of any length are JSON; squares have to stay below 1e308.
    return value if abs(value) < 1e150 and math.isfinite(value) else None


def _clean(record: Mapping[str, Any]) -> Record:
    kept = record.get("kept")
    kept = kept if isinstance(kept, dict) else {}
    numbers = {
        printable(key): number(value) for key, value in record.items() if key != "kept"
    }
    counts = {printable(key): number(value) for key, value in kept.items()}
    whole = {key: int(count) for key, count in counts.items() if count is not None}
    return numbers | {"kept": whole}


def _records(path: Path) -> tuple[list[Record], int]:
    """Returns the rounds that can be read, in order, and the count of other lines."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return [], 0
    records: list[Record] = []
    damaged = 0
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        last = records[-1]["round"] if records else 0
        at = number(record.get("round")) if isinstance(record, dict) else None
        if at is None or at != int(at) or not last < at < 1 << 53:
            damaged += 1
        else:
            records.append(_clean(record) | {"round": int(at)})
    return records, damaged


def _model_sizes(path: Path) -> dict[str, int]:
    """Returns the size of every tensor, from the head of a safetensors file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(length)) if length < 1 << 26 else {}
        return {
            printable(name): math.prod(entry["shape"])
            for name, entry in head.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _sizes(path: Path, records: Sequence[Record]) -> dict[str, int]:
    """Returns sizes of the counted tensors, from the model or a dense round."""
    counted = records[-1]["kept"] if records else {}
    sizes = _model_sizes(path / "model" / "model.safetensors")
    if not all(name in sizes for name in counted):
        dense = [record["kept"] for record in records if record.get("sparsity") == 0]
        # Not all that was counted need be in the model that was handed out.
        sizes = (dense[0] if dense else {}) | sizes
    return {name: sizes[name] for name in counted if 0 < sizes.get(name, 0) < 1 << 53}


def _missing(
    config: Any, records: Sequence[Record], damaged: int, summary: Any, rounds: Any
) -> Iterable[str]:
    if config is None:
        yield "config.json is missing or cannot be read: its options are unknown"
    if not records:
        yield "metrics.jsonl has no readable round: it has no curves"
    if damaged:
        lines = "1 line" if damaged == 1 else f"{damaged} lines"
        verb = "is" if damaged == 1 else "are"
        yield f"{lines} of metrics.jsonl cannot be read and {verb} left out"
    if summary is None:
        of = f" of {rounds}" if number(rounds) is not None else ""
        done = records[-1]["round"] if records else 0
        yield f"not finished: {done}{of} rounds are there, and no summary.json"


def read_run(path: Path, name: str | None = None) -> Run:
    """Reads a run directory, whatever state it is in.

    Args:
      path: the directory.
      name: its name in the report; by default the directory's.
    """
    config = _object(path / "config.json")
    options = (config or {}).get("options")
    versions = (config or {}).get("versions")
    if not isinstance(options, dict):
        config, options = None, {}
    records, damaged = _records(path / "metrics.jsonl")
    summary = _object(path / "summary.json")
    missing = _missing(config, records, damaged, summary, options.get("rounds"))
    return Run(
        path,
        printable(name or path.resolve().name),
        options,
        versions if isinstance(versions, dict) else {},
        records,
        summary,
        _sizes(path, records),
        _object(path / "partition.json"),
        tuple(missing),
    )


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in _RUN_FILES)


def _run_directories(path: Path) -> list[Path]:
    """Returns the run directories that a path stands for.

    Raises:
      InputError: if there is none.
    """
    if not path.exists():
        raise InputError(f"no directory {path}: name runs or sweeps")
    if not path.is_dir():
        raise InputError(f"{path} is a file: name the directory of a run or sweep")
    if _is_run(path):
        return [path]
    runs = sorted(entry for entry in path.iterdir() if _is_run(entry))
    if not runs and (path / _SWEEP_FILE).is_file():
        raise InputError(f"the sweep {path} has no run yet")
    if not runs:
        raise InputError(
            f"{path} is no run and no sweep: it has no {', '.join(_RUN_FILES)} or "
            f"{_SWEEP_FILE}"
        )
    return runs


def read(paths: Sequence[Path]) -> list[Run]:
    """Reads the runs that paths stand for, each once; a sweep is all of its runs.

    Args:
      paths: run directories, sweep directories, or directories of runs.

    Raises:
      InputError: for a path that is none of these.
    """
    runs: dict[Path, Path] = {}
    for path in paths:
        for run in _run_directories(path):
            runs.setdefault(run.resolve(), run)
    names = [run.name for run in runs]
    return [
        read_run(run, full.name if names.count(full.name) == 1 else str(run))
        for full, run in runs.items()
    ]

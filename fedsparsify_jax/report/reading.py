"""Run directories as they are found: finished, going on, or damaged.

Nothing of what a file says is trusted: a value of the wrong kind counts as missing, and
what is missing is said.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError

Record = dict[str, Any]

_RUN_FILES = ("config.json", "metrics.jsonl", "summary.json")
_SWEEP_FILE = "sweep.json"


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run directory holds."""

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
        """``accuracy`` or ``mae``: what its rounds are judged by."""
        return "mae" if any("test_mae" in r for r in self.records) else "accuracy"

    @functools.cached_property
    def evaluated(self) -> list[float]:
        """What the evaluations said, in order."""
        found = (number(record.get(f"test_{self.metric}")) for record in self.records)
        return [value for value in found if value is not None]

    def column(
        self, field: Callable[[Record], float | None] | str
    ) -> Iterator[tuple[int, float | None]]:
        """Round and value of a field, or of what is computed from a record."""
        for record in self.records:
            value = record.get(field) if isinstance(field, str) else field(record)
            yield record["round"], value

    @functools.cached_property
    def totals(self) -> dict[str, float]:
        """What the rounds add up to, of the fields that every round has."""
        found = {}
        for field in ("bytes_up", "bytes_down", "bytes_dense", "seconds"):
            values = [value for _, value in self.column(field) if value is not None]
            if values and len(values) == len(self.records):
                found[field] = sum(values)
        return found

    @property
    def finished(self) -> bool:
        return self.summary is not None


def printable(text: str) -> str:
    """Text that every file and terminal takes: no control characters, no halves.

    >>> printable("a\\tb\\x00\\ud800")
    'a b��'
    """
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )


def _tidy(value: Any) -> Any:
    """JSON values with printable text."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _tidy(item) for key, item in value.items()}
    return value


def _object(path: Path) -> dict[str, Any] | None:
    """A JSON object, None if there is no readable one."""
    try:
        content = _tidy(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def number(value: Any) -> float | None:
    """A finite number as it is, None for anything else.

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
    """The rounds that can be read, in order, and how many lines cannot."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return [], 0
    records: list[Record] = []
    damaged = 0
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        last = records[-1]["round"] if records else 0
        at = number(found.get("round")) if isinstance(found, dict) else None
        if at is None or at != int(at) or at <= last:
            damaged += 1
        else:
            records.append(_clean(found) | {"round": int(at)})
    return records, damaged


def _model_sizes(path: Path) -> dict[str, int]:
    """The numbers of every tensor, from the head of a safetensors file."""
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
    """How many numbers the counted tensors have: of the model, or of a dense round."""
    counted = records[-1]["kept"] if records else {}
    found = _model_sizes(path / "model" / "model.safetensors")
    if not all(name in found for name in counted):
        dense = [record["kept"] for record in records if record.get("sparsity") == 0]
        found = dense[0] if dense else {}
    return {name: found[name] for name in counted if 0 < found.get(name, 0) < 1 << 53}


def _missing(
    config: Any, records: Sequence[Record], damaged: int, summary: Any, rounds: Any
) -> Iterable[str]:
    if config is None:
        yield "config.json is missing or cannot be read: its options are unknown"
    if not records:
        yield "metrics.jsonl has no readable round: it has no curves"
    if damaged:
        some = "1 line" if damaged == 1 else f"{damaged} lines"
        verb = "is" if damaged == 1 else "are"
        yield f"{some} of metrics.jsonl cannot be read and {verb} left out"
    if summary is None:
        of = f" of {rounds}" if number(rounds) is not None else ""
        done = records[-1]["round"] if records else 0
        yield f"not finished: {done}{of} rounds are there, and no summary.json"


def read_run(path: Path, name: str | None = None) -> Run:
    """Reads a run directory, whatever state it is in.

    Args:
      path: the directory.
      name: what to call it; by default the directory's name.
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


def _names(path: Path) -> list[Path]:
    """The run directories that a path stands for.

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
    """The runs that paths stand for, each once; a sweep is all of its runs.

    Args:
      paths: run directories, sweep directories, or directories of runs.

    Raises:
      InputError: for a path that is none of these.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        for run in _names(path):
            found.setdefault(run.resolve(), run)
    names = [run.name for run in found]
    return [
        read_run(run, full.name if names.count(full.name) == 1 else str(run))
        for full, run in found.items()
    ]

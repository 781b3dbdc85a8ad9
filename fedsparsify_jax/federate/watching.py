"""A run that another process carries out, as its files and its log show it."""

import json
from collections.abc import Callable, Generator
from pathlib import Path

from rich.console import Console

from fedsparsify_jax.runner.display.progress import Record, reporter
from fedsparsify_jax.runner.options.config import TrainConfig


def following(
    out: Path, run: TrainConfig, completed: int, console: Console
) -> Generator[None]:
    """Shows the rounds that the server has written, whenever it is asked to."""
    with reporter(console, run.rounds or 0, completed) as show:
        shown = completed
        while True:
            for record in records(out / "metrics.jsonl")[shown:]:
                show(record)
                shown += 1
            yield


def records(path: Path) -> list[Record]:
    """Returns the whole lines of a ``metrics.jsonl`` that is being written."""
    try:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def notes(log: Path) -> list[str]:
    """Returns what the server noted of its clients."""
    return _lines(log, lambda line: line.startswith("note: "))


def refusal(log: Path) -> str:
    """Returns the last error that the server printed; "" if there is none."""
    errors = _lines(log, lambda line: "InputError: " in line)
    return errors[-1].partition("InputError: ")[2] if errors else ""


def _lines(log: Path, wanted: Callable[[str], bool]) -> list[str]:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return list(filter(wanted, text.splitlines()))

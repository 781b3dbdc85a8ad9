"""Progress of a run, for people."""

import contextlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

Record = dict[str, Any]


def duration(seconds: float) -> str:
    """Returns seconds as a person would say them.

    >>> duration(0.034), duration(5.25), duration(75), duration(3700)
    ('0.03 s', '5.2 s', '1:15', '1:01:40')
    """
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:  # what rounds to 60.0 is a minute
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{minutes:02}:{seconds:02}"
    return f"{hours}:{clock}" if hours else clock.removeprefix("0")


def _percent(value: float | None, digits: int = 2) -> str:
    return "n/a" if value is None else f"{100 * value:.{digits}f} %"


def _number(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"


FAILED = ("dropped", "stragglers", "rejected")
"""Counts of clients, of a round or a run: see `types.RoundInfo`."""


def failures(record: Record) -> str:
    """Returns the clients that failed, for people; nothing if none did.

    >>> failures({"dropped": 2, "stragglers": 0, "rejected": 1})
    'dropped 2, rejected 1'
    """
    counts = {name: record.get(name, 0) for name in FAILED}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def _failed(record: Record) -> str:
    """Returns the same as a part of a line, with what matters most."""
    text = failures(record)
    if record["train_loss"] is None and record.get("merged", 1):
        return "  LOSS NOT FINITE" + f"  {text}" * bool(text)
    if record.get("merged", 1) == 0:
        return f"  NOBODY LEFT ({text or 'no examples'})"
    return f"  {text}" if text else ""


def measured(record: Record, digits: int = 2) -> tuple[str, str]:
    """Returns what a round is judged by, name and value, for people.

    >>> measured({"test_accuracy": 0.5}), measured({"test_mae": 3.25})
    (('accuracy', '50.00 %'), ('mae', '3.2500'))
    """
    if "test_mae" in record:
        return "mae", _number(record["test_mae"])
    return "accuracy", _percent(record["test_accuracy"], digits)


class _Remaining:
    """Estimates the time left from the median of the latest rounds."""

    def __init__(self, total: int):
        self._total = total
        self._seconds: list[float] = []

    def after(self, record: Record) -> str:
        self._seconds = [*self._seconds[-19:], record["seconds"]]
        left = self._total - record["round"]
        return duration(left * statistics.median(self._seconds))


@contextlib.contextmanager
def reporter(
    console: Console, total: int, completed: int
) -> Iterator[Callable[[Record], None]]:
    """Yields what shows a record of ``metrics.jsonl``.

    On a terminal that is a bar, after the latest figures in one line; anywhere else a
    line a round.
    """
    remaining = _Remaining(total)
    width = len(str(total))

    def line(record: Record) -> None:
        name, value = measured(record)
        console.print(
            f"round {record['round']:>{width}}/{total}"
            f"  train loss {_number(record['train_loss'])}"
            f"  test {name} {value}"
            f"  sparsity {_percent(record['sparsity'])}"
            f"{_failed(record)}"
            f"  {duration(record['seconds'])}"
            f"  left {remaining.after(record)}",
            soft_wrap=True,
        )

    if not console.is_terminal:
        yield line
        return
    figures = TextColumn("round {task.completed}/{task.total}{task.fields[figures]}")
    with Progress(figures, BarColumn(bar_width=None), console=console) as progress:
        bar = progress.add_task("rounds", total=total, completed=completed, figures="")

        def update(record: Record) -> None:
            name, value = measured(record, digits=1)
            figures = (
                f"  loss {_number(record['train_loss'])}"
                f"  {name[:3]} {value}"
                f"  sparse {_percent(record['sparsity'], 1)}"
                f"{_failed(record)}"
                f"  {duration(record['seconds'])}"
                f"  left {remaining.after(record)}"
            )
            progress.update(bar, completed=record["round"], figures=figures)

        yield update

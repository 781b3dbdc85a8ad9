"""What a person sees while a run goes on."""

import statistics
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

Record = dict[str, Any]


class Reporter(Protocol):
    """Told of every completed round; a context manager around the loop."""

    def __enter__(self) -> "Reporter": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def round(self, record: Record) -> None:
        """Shows a record of ``metrics.jsonl``."""


def duration(seconds: float) -> str:
    """Seconds as a person would say them.

    >>> duration(0.034), duration(5.25), duration(75), duration(3700)
    ('0.03 s', '5.2 s', '1:15', '1:01:40')
    """
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:  # what rounds to 60.0 is a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _percent(value: float | None, digits: int = 2) -> str:
    return "n/a" if value is None else f"{100 * value:.{digits}f} %"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


FAILED = ("dropped", "stragglers", "rejected")
"""Counts of clients, of a round or a run: see `types.RoundInfo`."""


def failures(record: Record) -> str:
    """The clients that failed, for people; nothing if none did.

    >>> failures({"dropped": 2, "stragglers": 0, "rejected": 1})
    'dropped 2, rejected 1'
    """
    counts = {name: record.get(name, 0) for name in FAILED}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def _failed(record: Record) -> str:
    """The same as a part of a line, with what matters most."""
    said = failures(record)
    if record.get("merged", 1) == 0:
        return f"  NOBODY LEFT ({said or 'no examples'})"
    return f"  {said}" if said else ""


def measured(record: Record, digits: int = 2) -> tuple[str, str]:
    """What a round is judged by: its name and its value, for people.

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


class PlainLines:
    """One line a round, for logs and pipes."""

    def __init__(self, console: Console, total: int):
        self._console, self._total = console, total
        self._remaining = _Remaining(total)

    def __enter__(self) -> "PlainLines":
        return self

    def __exit__(self, *ended: Any) -> None:
        pass

    def round(self, record: Record) -> None:
        """Prints a line."""
        width = len(str(self._total))
        name, value = measured(record)
        self._console.print(
            f"round {record['round']:>{width}}/{self._total}"
            f"  train loss {_number(record['train_loss'])}"
            f"  test {name} {value}"
            f"  sparsity {_percent(record['sparsity'])}"
            f"{_failed(record)}"
            f"  {duration(record['seconds'])}"
            f"  left {self._remaining.after(record)}",
            soft_wrap=True,
        )


class LiveBar:
    """The latest figures and a bar in what is left of the line, for terminals."""

    def __init__(self, console: Console, total: int, completed: int):
        self._remaining = _Remaining(total)
        self._bar = Progress(
            TextColumn("round {task.completed}/{task.total}{task.fields[figures]}"),
            BarColumn(bar_width=None),
            console=console,
        )
        self._task = self._bar.add_task(
            "rounds", total=total, completed=completed, figures=""
        )

    def __enter__(self) -> "LiveBar":
        self._bar.start()
        return self

    def __exit__(self, *ended: Any) -> None:
        self._bar.stop()

    def round(self, record: Record) -> None:
        """Moves the bar on."""
        name, value = measured(record, digits=1)
        figures = (
            f"  loss {_number(record['train_loss'])}"
            f"  {name[:3]} {value}"
            f"  sparse {_percent(record['sparsity'], 1)}"
            f"{_failed(record)}"
            f"  {duration(record['seconds'])}"
            f"  left {self._remaining.after(record)}"
        )
        self._bar.update(self._task, completed=record["round"], figures=figures)


def reporter(console: Console, total: int, completed: int) -> Reporter:
    """A live bar on a terminal, plain lines anywhere else."""
    if console.is_terminal:
        return LiveBar(console, total, completed)
    return PlainLines(console, total)

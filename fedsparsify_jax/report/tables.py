"""Tables: rows and columns of a report."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from fedsparsify_jax.report.figures_of_run import layer_name, layer_sparsity
from fedsparsify_jax.report.lines import measure
from fedsparsify_jax.report.reading import LAST, Run, number
from fedsparsify_jax.report.results import Spread, spread
from fedsparsify_jax.report.scales import text
from fedsparsify_jax.report.settings import Setting, label_of, plain
from fedsparsify_jax.runner.display.summary import TENTH

CLIENTS = 50
"""Rows of a client table."""


class Cell(NamedTuple):
    """A cell: its text, the number it sorts by, and a share in [0, 1] as its tint."""

    words: str
    value: float | None = None
    share: float | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells; the first column names its row."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    sortable: bool = False

    @functools.cached_property
    def numeric(self) -> list[bool]:
        """Returns for every column whether it has a number."""
        columns = range(len(self.head))
        return [any(row[n].value is not None for row in self.rows) for n in columns]


def cell_of(results: Spread | None, kind: str) -> Cell:
    """Returns mean and standard deviation over runs as a cell.

    >>> cell_of(spread([0.8, 0.9]), "percent").words, cell_of(None, "count").words
    ('85.00 ± 7.07 %', '–')
    """
    if results is None:
        return Cell("–")  # noqa: RUF001
    mean, deviation = results.mean, results.deviation
    if kind == "times":
        return Cell(f"{mean:.2f} x", mean)
    if deviation is not None and kind == "percent":
        return Cell(f"{results.text(2, 100)} %", mean)
    if not deviation or kind == "megabytes":
        return Cell(text(mean, kind), mean)
    return Cell(f"{mean:.4g} ± {deviation:.2g}", mean)


def _columns(metric: str, runs: Iterable[Run]) -> list[tuple[str, str, str]]:
    """Returns the columns of a setting: a heading, a figure of its runs, its kind."""
    kind, _ = measure(metric)
    name = "accuracy" if metric == "accuracy" else "MAE"
    of_clients = []
    if any("clients" in run.figures for run in runs):
        of_clients = [
            ("Clients", "clients", kind),
            ("Worst tenth", "worst_clients", kind),
        ]
    is_private = any("epsilon" in run.figures for run in runs)
    return [
        (f"Final {name}", "final", kind),
        (f"Last {LAST}", "last_10", kind),
        ("Best", "best", kind),
        *of_clients,
        ("Sparsity", "sparsity", "percent"),
        ("Moved", "bytes", "megabytes"),
        ("Saving", "saving", "times"),
        *([("Epsilon", "epsilon", "number")] if is_private else []),
    ]


def comparison(settings: Sequence[Setting]) -> Table:
    """Returns a row a setting: the options that differ, and its figures.

    Args:
      settings: of one metric.
    """
    every = [run for setting in settings for run in setting.shown]
    columns = _columns(settings[0].metric, every)
    # Labels say what the options say, unless there are too many, or repetitions.
    named = any(s.label != label_of(s.values) for s in settings)
    head = ["Setting"] * named
    head += [field.replace("_", " ").capitalize() for field in settings[0].values]
    head += ["Runs", *(name for name, _, _ in columns)]
    rows = []
    for setting in settings:
        options = [Cell(plain(v), number(v)) for v in setting.values.values()]
        done = sum(run.finished for run in setting.runs)
        total = len(setting.runs)
        count = f"{done}" if done == total else f"{done}/{total}"
        cells = [cell_of(setting.results.spread(name), k) for _, name, k in columns]
        first = [Cell(setting.label)] * named
        rows.append((*first, *options, Cell(count, done), *cells))
    several = any(len(setting.shown) > 1 for setting in settings)
    note = "Mean ± standard deviation over seeds. " if several else ""
    if not all(run.finished for setting in settings for run in setting.runs):
        note += "Of runs that go on, figures are those of the rounds there are. "
    note += f"Bytes are non-zeros x 32 bit, up and down. {_compressed(settings)}"
    note += "Best is chosen on the test set, so it flatters."
    if any(figure == "clients" for _, figure, _ in columns):
        note += (
            " Clients and worst tenth: accuracy of each client's model on test "
            "examples in the proportions of its classes, mean over the clients and "
            "over those with the lowest."
        )
    return Table("Figures by setting", tuple(head), tuple(rows), note, sortable=True)


def _compressed(settings: Sequence[Setting]) -> str:
    """Returns sentences on how the uploads of some runs are counted, if compressed."""
    every = [run.summary or {} for setting in settings for run in setting.shown]
    formulas = {str(summary.get("bytes_formula", "")) for summary in every}
    parts = sorted({formula.partition("uploads: ")[2] for formula in formulas} - {""})
    return "".join(f"Compressed uploads: {part}. " for part in parts)


def traffic(settings: Sequence[Setting]) -> Table:
    """Returns the bytes moved, as the summaries count them; a row a setting."""
    fields = {
        "Up": "bytes_up",
        "Down": "bytes_down",
        "With masks": "bytes_with_masks",
        "With indices": "bytes_with_indices",
        "Dense": "bytes_dense",
    }
    every = [run.summary or {} for setting in settings for run in setting.shown]
    if any("message_bytes" in summary for summary in every):
        fields["Encoded"] = "message_bytes"
    rows = []
    for setting in settings:
        summaries = [run.summary or {} for run in setting.shown]
        bytes_moved = [
            spread(number(s.get(f)) for s in summaries) for f in fields.values()
        ]
        cells = [cell_of(moved, "megabytes") for moved in bytes_moved]
        rows.append((Cell(setting.label), *cells))
    note = (
        "Means over finished runs. Up and down: non-zeros x 32 bit. With masks: a bit "
        "more a parameter and message; with indices: 32 bit more a non-zero."
    )
    if uploads := _compressed(settings).rstrip():
        note += f" {uploads}"
    if "Encoded" in fields:
        note += " Encoded: messages as they are sent, measured."
    return Table("Bytes", ("Setting", *fields), tuple(rows), note, sortable=True)


def every_run(runs: Sequence[Run]) -> Table:
    """Returns a row a run directory."""
    rows = []
    for run in runs:
        columns = _columns(run.metric, runs)
        figures = [(run.figures.get(f), kind) for _, f, kind in columns]
        cells = [cell_of(spread([value]), kind) for value, kind in figures]
        rounds = run.records[-1]["round"] if run.records else 0
        rows.append((Cell(run.name), Cell(f"{rounds}", rounds), *cells))
    all_mae = all(run.metric == "mae" for run in runs)
    metric = "mae" if all_mae else "accuracy"
    heads = [name for name, _, _ in _columns(metric, runs)]
    return Table("Every run", ("Run", "Rounds", *heads), tuple(rows), sortable=True)


def options(values: dict[str, Any], title: str) -> Table:
    """Returns options and their values."""
    rows = [
        (Cell("--" + field.replace("_", "-")), Cell(plain(value)))
        for field, value in values.items()
    ]
    return Table(title, ("Option", "Value"), tuple(rows))


def layers(setting: Setting) -> Table | None:
    """Returns the rest of every tensor after the last round; None if it is unknown."""
    rows = []
    for name, shares in layer_sparsity(setting).items():
        share, size = float(shares.dropna().iloc[-1]), setting.shown[0].sizes[str(name)]
        kept = round((1 - share) * size)
        rows.append(
            (
                Cell(layer_name(str(name))),
                Cell(f"{size:,}", size),
                Cell(f"{kept:,}", kept),
                Cell(f"{100 * share:.2f} %", share),
            )
        )
    head = ("Tensor", "Numbers", "Kept", "Sparsity")
    title = "Tensors after the last round"
    return Table(title, head, tuple(rows), sortable=True) if rows else None


def clients(run: Run) -> Table | None:
    """Returns the examples of each class that every client holds.

    Args:
      run: with the content of its ``partition.json``; None if that is of no use.
    """
    partition = run.partition or {}
    sizes, total = _counts(partition.get("sizes")), partition.get("clients")
    if sizes is None:
        return None
    counts = partition.get("counts")
    table = [_counts(row) for row in counts] if isinstance(counts, list) else []
    by_class = [row for row in table if row is not None]
    if len(by_class) != len(sizes):
        by_class = [[] for _ in sizes]
    classes = max(map(len, by_class), default=0)
    most = max((n for row in by_class for n in row), default=0) or 1
    rows, names = [], partition.get("names")
    if not isinstance(names, list):
        names = []
    for client, (row, size) in enumerate(zip(by_class, sizes, strict=True)):
        if client == CLIENTS:
            break
        cells = [Cell(f"{n:,}", n, n / most if n else None) for n in row]
        cells += [Cell("")] * (classes - len(row))
        called = plain(names[client]) if client < len(names) else str(client)
        first = Cell(called, None if names else client)
        rows.append((first, *cells, Cell(f"{size:,}", size)))
    count = total if type(total) is int and total < 1 << 53 else len(sizes)
    note = f"{len(rows)} of {count:,} clients." if count > len(rows) else ""
    labels = partition.get("labels")
    if not isinstance(labels, list) or len(labels) < classes:
        labels = [*range(classes)]
    head = ("Client", *map(plain, labels[:classes]), "All")
    title = "Examples of each class" if classes else "Examples"
    return Table(title, head, tuple(rows), note)


def client_accuracies(runs: Sequence[Run]) -> Table | None:
    """Returns the clients in each tenth of accuracy in the end; None without any.

    Args:
      runs: a row each, those that evaluated their clients.
    """
    rows = []
    for run in runs:
        summary = run.summary or {}
        tenths = _counts([summary.get(f"{TENTH}{n}") for n in range(1, 11)])
        if tenths is None:
            continue
        most = max(tenths) or 1
        cells = [Cell(f"{n:,}", n, n / most if n else None) for n in tenths]
        rows.append((Cell(run.name), *cells))
    if not rows:
        return None
    head = ("Run", *(f"{10 * n} to {10 * n + 10} %" for n in range(10)))
    note = "Clients by the accuracy of the last model on their test examples."
    return Table("Accuracies of clients", head, tuple(rows), note)


def _counts(row: Any) -> list[int] | None:
    """Returns a list of whole numbers, None for anything else."""
    whole = isinstance(row, list) and all(
        type(n) is int and 0 <= n < 1 << 53 for n in row
    )
    return row if whole else None

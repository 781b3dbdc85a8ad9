"""What is said in rows and columns."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fedsparsify_jax.report.figures_of_run import layer_name, layer_sparsity, measure
from fedsparsify_jax.report.reading import Run, number
from fedsparsify_jax.report.scales import text
from fedsparsify_jax.report.settings import Setting, label_of, mean_and_deviation, plain

LAST = 10
"""Evaluations that the late mean is of."""
CLIENTS = 50
"""Rows of a client table."""


class Cell(NamedTuple):
    """A cell: what is read, what it sorts by, and a share in [0, 1] to tint it by."""

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


def final(run: Run) -> float | None:
    """What the last evaluation says."""
    return next(reversed(run.evaluated), None)


def best(run: Run) -> float | None:
    """The best evaluation, which only the test set can tell."""
    pick = min if run.metric == "mae" else max
    return pick(run.evaluated, default=None)


def late(run: Run) -> float | None:
    """The mean of the last evaluations."""
    values = run.evaluated[-LAST:]
    return sum(values) / len(values) if values else None


def sparsity(run: Run) -> float | None:
    """What the last round achieved."""
    return number(run.records[-1].get("sparsity")) if run.records else None


def all_bytes(run: Run) -> float | None:
    """Bytes up and down in all rounds."""
    up, down = run.totals.get("bytes_up"), run.totals.get("bytes_down")
    return None if up is None or down is None else up + down


def saving(run: Run) -> float | None:
    """How many times the bytes a dense federation moves."""
    moved, dense = all_bytes(run), run.totals.get("bytes_dense")
    return dense / moved if moved and dense is not None else None


def spoken(values: Sequence[float], kind: str) -> Cell:
    """Mean and standard deviation of a figure over runs.

    >>> spoken([0.8, 0.9], "percent").words, spoken([], "count").words
    ('85.00 ± 7.07 %', '–')
    """
    found = mean_and_deviation(values)
    if found is None:
        return Cell("–")  # noqa: RUF001
    mean, deviation = found
    if kind == "times":
        return Cell(f"{mean:.2f} x", mean)
    if deviation is None:
        return Cell(text(mean, kind), mean)
    if kind == "percent":
        return Cell(f"{100 * mean:.2f} ± {100 * deviation:.2f} %", mean)
    if kind == "megabytes" or deviation == 0:
        return Cell(text(mean, kind), mean)
    return Cell(f"{mean:.4g} ± {deviation:.2g}", mean)


Figure = tuple[str, Callable[[Run], float | None], str]


def columns(metric: str, kind: str) -> list[Figure]:
    """What is said of every setting: a heading, a figure of a run, and its kind."""
    name = "accuracy" if metric == "accuracy" else "MAE"
    return [
        (f"Final {name}", final, kind),
        (f"Last {LAST}", late, kind),
        ("Best", best, kind),
        ("Sparsity", sparsity, "percent"),
        ("Moved", all_bytes, "megabytes"),
        ("Saving", saving, "times"),
    ]


def comparison(settings: Sequence[Setting]) -> Table:
    """A row a setting: what sets it apart, and its figures.

    Args:
      settings: of one metric.
    """
    kind, _ = measure(settings[0])
    figures = columns(settings[0].metric, kind)
    fields = list(settings[0].values)
    # Labels say what the options say, unless there are too many, or repetitions.
    named = any(s.label != label_of(s.values) for s in settings)
    head = ["Setting"] * named
    head += [field.replace("_", " ").capitalize() for field in fields]
    rows = []
    for setting in settings:
        apart = [Cell(plain(v), number(v)) for v in setting.values.values()]
        done = sum(run.finished for run in setting.runs)
        count = (
            f"{done}" if done == len(setting.runs) else f"{done}/{len(setting.runs)}"
        )
        cells = [spoken(setting.values_of(pick), k) for _, pick, k in figures]
        first = [Cell(setting.label)] * named
        rows.append((*first, *apart, Cell(count, done), *cells))
    head += ["Runs", *(name for name, _, _ in figures)]
    several = any(len(setting.shown) > 1 for setting in settings)
    note = "Mean ± standard deviation over seeds. " if several else ""
    if not all(run.finished for setting in settings for run in setting.runs):
        note += "Of runs that go on, figures are those of the rounds there are. "
    note += "Bytes are non-zeros x 32 bit, up and down. "
    note += "Best is chosen on the test set, so it flatters."
    return Table("Figures by setting", tuple(head), tuple(rows), note, sortable=True)


def _summed(run: Run, field: str) -> float | None:
    return number((run.summary or {}).get(field))


def traffic(settings: Sequence[Setting]) -> Table:
    """What was moved, as the summaries count it; a row a setting."""
    fields = {
        "Up": "bytes_up",
        "Down": "bytes_down",
        "With masks": "bytes_with_masks",
        "With indices": "bytes_with_indices",
        "Dense": "bytes_dense",
    }
    rows = []
    for setting in settings:
        cells = [Cell(setting.label)]
        for field in fields.values():
            found = [_summed(run, field) for run in setting.shown]
            known = [value for value in found if value is not None]
            cells.append(spoken(known, "megabytes"))
        rows.append(tuple(cells))
    note = (
        "Means over finished runs. Up and down: non-zeros x 32 bit. With masks: a bit "
        "more a parameter and message; with indices: 32 bit more a non-zero."
    )
    return Table("Bytes", ("Setting", *fields), tuple(rows), note, sortable=True)


def every_run(runs: Sequence[Run]) -> Table:
    """A row a run directory."""
    rows = []
    for run in runs:
        kind = "percent" if run.metric == "accuracy" else "number"
        cells = []
        for _, pick, own in columns(run.metric, kind):
            value = pick(run)
            cells.append(spoken([] if value is None else [value], own))
        rounds = run.records[-1]["round"] if run.records else 0
        rows.append((Cell(run.name), Cell(f"{rounds}", rounds), *cells))
    heads = [name for name, _, _ in columns("accuracy", "percent")]
    if all(run.metric == "mae" for run in runs):
        heads[0] = "Final MAE"
    return Table("Every run", ("Run", "Rounds", *heads), tuple(rows), sortable=True)


def options(values: dict[str, Any], title: str) -> Table:
    """Options and their values."""
    rows = [
        (Cell("--" + field.replace("_", "-")), Cell(plain(value)))
        for field, value in values.items()
    ]
    return Table(title, ("Option", "Value"), tuple(rows))


def layers(setting: Setting) -> Table | None:
    """What every tensor has left at the end; None if it is not known."""
    found = layer_sparsity(setting)
    sizes = setting.shown[0].sizes if setting.shown else {}
    rows = []
    for name, points in found.items():
        share, size = points[-1][1], sizes[name]
        kept = round((1 - share) * size)
        rows.append(
            (
                Cell(layer_name(name)),
                Cell(f"{size:,}", size),
                Cell(f"{kept:,}", kept),
                Cell(f"{100 * share:.2f} %", share),
            )
        )
    head = ("Tensor", "Numbers", "Kept", "Sparsity")
    title = "Tensors after the last round"
    return Table(title, head, tuple(rows), sortable=True) if rows else None


def clients(run: Run) -> Table | None:
    """The examples of each class that every client holds, as the run wrote it down.

    Args:
      run: with what its ``partition.json`` holds; None if that is of no use.
    """
    found = run.partition or {}
    sizes, total = _counts(found.get("sizes")), found.get("clients")
    if sizes is None:
        return None
    given = found.get("counts")
    table = [_counts(row) for row in given] if isinstance(given, list) else []
    known = [row for row in table if row is not None]
    if len(known) != len(sizes):
        known = [[] for _ in sizes]
    classes = max(map(len, known), default=0)
    most = max((n for row in known for n in row), default=0) or 1
    rows = []
    for client, (row, size) in enumerate(zip(known, sizes, strict=True)):
        if client == CLIENTS:
            break
        cells = [Cell(f"{n:,}", n, n / most if n else None) for n in row]
        cells += [Cell("")] * (classes - len(row))
        rows.append((Cell(str(client), client), *cells, Cell(f"{size:,}", size)))
    count = total if type(total) is int and total < 1 << 53 else len(sizes)
    note = f"{len(rows)} of {count:,} clients." if count > len(rows) else ""
    head = ("Client", *map(str, range(classes)), "All")
    title = "Examples of each class" if classes else "Examples"
    return Table(title, head, tuple(rows), note)


def _counts(row: Any) -> list[int] | None:
    """A list of whole numbers, None for anything else."""
    whole = isinstance(row, list) and all(
        type(n) is int and 0 <= n < 1 << 53 for n in row
    )
    return row if whole else None

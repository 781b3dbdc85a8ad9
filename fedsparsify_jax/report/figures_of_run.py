"""Figures of one setting: what happens over its rounds, and in its layers."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from fedsparsify_jax.report.charts import Chart, HeatMap, Series, thinned
from fedsparsify_jax.report.reading import Record, Run
from fedsparsify_jax.report.settings import Points, Setting

LAYERS = 24
"""Strips of a heat map: the largest layers."""
_COLUMNS = 120  # of a heat map
_POINTS = 300  # of a line


def moved(record: Record) -> float | None:
    """The bytes of a round, up and down."""
    up, down = record.get("bytes_up"), record.get("bytes_down")
    return None if up is None or down is None else up + down


def _total(run: Run) -> dict[int, float]:
    """Round to all bytes moved until its end, until a round does not say."""
    found: dict[int, float] = {}
    sums = accumulate((moved(record) or 0.0 for record in run.records), initial=0.0)
    for record, total in zip(run.records, list(sums)[1:], strict=True):
        if moved(record) is None:
            break
        found[record["round"]] = total
    return found


def against_bytes(setting: Setting) -> Points:
    """``(bytes so far, what is measured)``, both as means over the runs."""
    totals = {id(run): _total(run) for run in setting.shown}
    rows = [list(total.values()) for total in totals.values()]
    if not rows or not all(rows):
        return []
    by_round = {}
    for at in set.intersection(*(set(total) for total in totals.values())):
        by_round[at] = sum(total[at] for total in totals.values()) / len(totals)
    measured, _ = setting.curve(f"test_{setting.metric}")
    return [(by_round[int(at)], y) for at, y in measured if int(at) in by_round]


def against(setting: Setting, x: str, y: str) -> Points:
    """One quantity against another, round by round, as means over the runs."""
    by_round = dict(setting.curve(x)[0])
    return [(by_round[at], b) for at, b in setting.curve(y)[0] if at in by_round]


Field = Callable[[Record], float | None] | str


def over_rounds(
    setting: Setting, field: Field, label: str, tone: int, **style: Any
) -> Series | None:
    """A line over rounds with the range of its runs, None if no run has it."""
    points, spread = setting.curve(field)
    if not points:
        return None
    return thinned(Series(label, tone, points, spread, **style), _POINTS)


def measure(setting: Setting) -> tuple[str, str]:
    """The kind of the axis of what a run is judged by, and its name."""
    kind = "percent" if setting.metric == "accuracy" else "number"
    name = "accuracy" if setting.metric == "accuracy" else "mean absolute error"
    return kind, name


def run_charts(setting: Setting) -> list[Chart]:
    """The charts of a single setting, those that its records can fill."""
    kind, name = measure(setting)
    test = f"test_{setting.metric}"

    def lines(*wanted: tuple[Field, str, int, bool]) -> tuple[Series, ...]:
        made = (over_rounds(setting, f, s, n, dashed=d) for f, s, n, d in wanted)
        return tuple(series for series in made if series is not None)

    def path(label: str, points: Points) -> tuple[Series, ...]:
        return (thinned(Series(label, 0, points), _POINTS),) if points else ()

    bytes_path = path(name, against_bytes(setting))
    sparse_path = path(name, against(setting, "sparsity", test))
    charts = [
        Chart(
            f"Test {name} over rounds",
            "round",
            name,
            lines((test, name, 0, False)),
            y_kind=kind,
        ),
        Chart(
            "Losses over rounds",
            "round",
            "loss",
            lines(("train_loss", "train", 0, False), ("test_loss", "test", 1, False)),
        ),
        Chart(
            "Sparsity over rounds",
            "round",
            "sparsity",
            lines(
                ("sparsity", "achieved", 0, False),
                ("target_sparsity", "target", 7, True),
            ),
            y_kind="percent",
        ),
        Chart(
            "Bytes of a round",
            "round",
            "moved in a round",
            lines(
                ("bytes_up", "up", 0, False),
                ("bytes_down", "down", 1, True),
                ("bytes_dense", "dense, both ways", 7, True),
            ),
            y_kind="megabytes",
        ),
        Chart(
            f"Test {name} against bytes",
            "moved so far",
            name,
            bytes_path,
            x_kind="megabytes",
            y_kind=kind,
        ),
        Chart(
            f"Test {name} against sparsity",
            "sparsity",
            name,
            sparse_path,
            x_kind="percent",
            y_kind=kind,
        ),
    ]
    return [chart for chart in charts if chart.series]


def layer_name(name: str) -> str:
    """A tensor's path for people.

    >>> layer_name("params/Dense_0/kernel")
    'Dense_0 / kernel'
    """
    return name.removeprefix("params/").replace("/", " / ")


def layer_sparsity(setting: Setting) -> dict[str, Points]:
    """Tensor to ``(round, sparsity)``, in the model's order, as means over the runs."""
    found: dict[str, Points] = {}
    runs = setting.shown
    sizes = runs[0].sizes if runs else {}
    if any(name.startswith("params/") for name in sizes):
        sizes = {name: n for name, n in sizes.items() if name.startswith("params/")}
    for name, size in sizes.items():
        points, _ = setting.curve(
            lambda record, name=name, size=size: (  # type: ignore[misc]
                1 - record["kept"][name] / size if name in record["kept"] else None
            )
        )
        if points:
            found[name] = [(at, min(max(y, 0.0), 1.0)) for at, y in points]
    return found


def heat_map(setting: Setting, title: str) -> HeatMap | None:
    """The sparsity of the largest tensors over rounds, None if it is not known."""
    layers = layer_sparsity(setting)
    sizes = setting.shown[0].sizes if setting.shown else {}
    chosen = sorted(layers, key=lambda name: -sizes[name])[:LAYERS]
    rows = [
        (f"{layer_name(name)} · {sizes[name]:,}", _columns(layers[name]))
        for name in layers
        if name in chosen
    ]
    return HeatMap(title, "round", tuple(rows)) if rows else None


def _columns(points: Sequence[tuple[float, float]]) -> Points:
    return list(thinned(Series("", 0, points), _COLUMNS).points)

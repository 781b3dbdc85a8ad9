"""Many settings in few charts: which option has the colours, which the panels."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from fedsparsify_jax.report.charts import Chart, Series, thinned
from fedsparsify_jax.report.figures_of_run import (
    Field,
    against_bytes,
    measure,
    moved,
    over_rounds,
)
from fedsparsify_jax.report.reading import Run
from fedsparsify_jax.report.settings import (
    Points,
    Setting,
    label_of,
    mean_and_deviation,
)

LINES = 8
"""So many settings share one panel, each in a colour of its own."""
PANELS = 12
"""Panels of a measure; what is beyond is counted."""
COLOURS = 16
_COSTS = {"percent": "sparsity", "megabytes": "bytes"}
_BANDS = 3  # lines in a panel that can have their ranges shown


@dataclasses.dataclass(frozen=True)
class Panel:
    """One chart's settings, each with its label and tone."""

    title: str
    members: list[tuple[str, int, Setting]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How settings are divided."""

    panels: list[Panel]
    left_out: int  # settings that no panel shows

    @property
    def points(self) -> int:
        """Points of a line: fewer where there are many lines."""
        return 60 if len(self.panels) <= 4 else 40

    @property
    def metric(self) -> str:
        return self.panels[0].members[0][2].metric


def _key(values: dict[str, Any], fields: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    return tuple((field, _hashable(values[field])) for field in fields)


def _hashable(value: Any) -> Any:
    return repr(value) if isinstance(value, (list, dict)) else value


def _fits(panel: tuple[tuple[str, Any], ...], own: tuple[tuple[str, Any], ...]) -> bool:
    """Does a setting belong there? One without use for an option, wherever it is."""
    return all(b[1] is None or a == b for a, b in zip(panel, own, strict=True))


def lay_out(settings: Sequence[Setting], *, along: str | None = None) -> Layout:
    """Divides settings of one metric into panels.

    Args:
      settings: one or more.
      along: an option that the x axis shows, so that neither colours nor panels do;
        settings that differ in it alone are together, one after another.
    """
    fields = [field for field in settings[0].values if field != along]
    several = {_key(setting.values, fields) for setting in settings}
    if len(several) <= LINES or not fields:
        labels = dict.fromkeys(
            label_of(s.values, fields) or s.label if along else s.label
            for s in settings
        )
        tones = {label: n for n, label in enumerate(labels)}
        members = []
        for setting in settings:
            label = setting.label
            if along:
                label = label_of(setting.values, fields) or setting.label
            members.append((label, tones[label], setting))
        kept = [member for member in members if member[1] < COLOURS]
        return Layout([Panel("", kept)], len(members) - len(kept))
    coloured = _coloured(settings, fields)
    others = [field for field in fields if field != coloured]
    names = list(
        dict.fromkeys(label_of(setting.values, [coloured]) for setting in settings)
    )
    keys = [_key(setting.values, others) for setting in settings]
    full = list(
        dict.fromkeys(key for key in keys if all(v is not None for _, v in key))
    )
    panels, seen = [], set()
    for panel in (full or list(dict.fromkeys(keys)))[:PANELS]:
        members = []
        for setting, own in zip(settings, keys, strict=True):
            tone = names.index(label_of(setting.values, [coloured]))
            if tone < COLOURS and _fits(panel, own):
                members.append((names[tone] or setting.label, tone, setting))
                seen.add(id(setting))
        panels.append(Panel(label_of(dict(panel), others), members))
    return Layout(panels, sum(id(setting) not in seen for setting in settings))


def varied(settings: Sequence[Setting], field: str) -> bool:
    """Do some settings differ in this option alone?"""
    if not settings or field not in settings[0].values:
        return False
    fields = list(settings[0].values)
    others = [name for name in fields if name != field]
    used = [setting for setting in settings if setting.values[field] is not None]
    full = {_key(setting.values, fields) for setting in used}
    return len({_key(setting.values, others) for setting in used}) < len(full)


def _coloured(settings: Sequence[Setting], fields: Sequence[str]) -> str:
    """The option that colours stand for: the algorithm, or the one of most values."""
    counts = {
        field: len({_hashable(setting.values[field]) for setting in settings})
        for field in fields
    }
    if counts.get("algorithm", 0) > 1:
        return "algorithm"
    fitting = [field for field in fields if counts[field] <= LINES] or list(fields)
    return max(fitting, key=lambda field: counts[field])


def _chart(
    panel: Panel,
    title: str,
    lines: list[Series],
    labels: tuple[str, str],
    kinds: tuple[str, str],
) -> Chart | None:
    if not lines:
        return None
    where = f"{title}: {panel.title}" if panel.title else title
    return Chart(where, *labels, tuple(lines), *kinds)


def curves(layout: Layout) -> dict[str, list[Chart]]:
    """For every measure its name and a chart a panel."""
    kind, name = measure(layout.panels[0].members[0][2])
    fields: dict[str, tuple[Field, str, str]] = {
        f"Test {name}": (f"test_{layout.metric}", name, kind),
        "Train loss": ("train_loss", "loss", "number"),
        "Test loss": ("test_loss", "loss", "number"),
        "Sparsity": ("sparsity", "sparsity", "percent"),
        "Bytes of a round": (moved, "moved, both ways", "megabytes"),
    }
    found: dict[str, list[Chart]] = {}
    for title, (field, label, y_kind) in fields.items():
        for panel in layout.panels:
            made = (over_rounds(s, field, own, n) for own, n, s in panel.members)
            lines = [
                _plain(line, panel, layout.points) for line in made if line is not None
            ]
            chart = _chart(panel, title, lines, ("round", label), ("count", y_kind))
            found.setdefault(title, []).extend([chart] if chart else [])
    title = f"Test {name} against bytes"
    for panel in layout.panels:
        lines = [
            thinned(Series(own, n, points), layout.points)
            for own, n, setting in panel.members
            if (points := against_bytes(setting))
        ]
        labels, kinds = ("moved so far", name), ("megabytes", kind)
        chart = _chart(panel, title, lines, labels, kinds)
        found.setdefault(title, []).extend([chart] if chart else [])
    return {title: charts for title, charts in found.items() if charts}


def _plain(line: Series, panel: Panel, points: int) -> Series:
    few = len(panel.members) <= _BANDS
    line = line if few else dataclasses.replace(line, spread=())
    return thinned(line, points)


def trade_offs(
    settings: Sequence[Setting],
    y: Callable[[Run], float | None],
    title: str,
    x: Callable[[Run], float | None],
    x_label: str,
    x_kind: str,
) -> list[Chart]:
    """A figure of finished runs against another, along the final sparsity.

    Args:
      settings: of one metric.
      y: what is judged.
      title: of the charts.
      x: what it costs.
      x_label: its name.
      x_kind: its kind, see `scales`.
    """
    layout = lay_out(settings, along="final_sparsity")
    kind, name = measure(settings[0])
    charts = []
    for panel in layout.panels:
        rows: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
        for label, tone, setting in panel.members:
            across = mean_and_deviation(setting.values_of(x))
            found = mean_and_deviation(setting.values_of(y))
            if across and found:
                row = (across[0], found[0], found[1] or 0.0)
                rows.setdefault((label, tone), []).append(row)
        lines = [_trade_off(*key, sorted(row), x_kind) for key, row in rows.items()]
        if all(line.level for line in lines):
            lines = [dataclasses.replace(line, level=False) for line in lines]
        said = f"{title}, against {_COSTS[x_kind]}"
        chart = _chart(panel, said, lines, (x_label, name), (x_kind, kind))
        charts.extend([chart] if chart else [])
    return charts


def _trade_off(
    label: str, tone: int, row: list[tuple[float, float, float]], x_kind: str
) -> Series:
    points: Points = [(a, b) for a, b, _ in row]
    spread: Points = [(b - d, b + d) for _, b, d in row]
    # What never prunes has one place, at no sparsity: the line to compare with.
    dense = len(row) == 1 and x_kind == "percent" and row[0][0] < 0.01
    return Series(label, tone, points, spread, marks=not dense, level=dense)

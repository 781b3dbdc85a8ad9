"""Many settings in few charts: one option has the colours, others the panels."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

from fedsparsify_jax.report.charts import Chart, Series
from fedsparsify_jax.report.lines import (
    against,
    comparable,
    measure,
    over_rounds,
    trade_off,
)
from fedsparsify_jax.report.results import Repetitions
from fedsparsify_jax.report.settings import Setting, key, label_of

LINES = 8
"""Settings that share one panel, each in a colour of its own."""
PANELS = 12
"""Panels of a measure; settings beyond them are counted."""
COLOURS = 16
_BANDS = 3  # lines in a panel that can have their ranges shown
_NONE = key(None)


@dataclasses.dataclass(frozen=True)
class Panel:
    """One chart's settings, each with its label and tone."""

    title: str
    members: list[tuple[str, int, Setting]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Settings divided into panels."""

    panels: list[Panel]
    left_out: int  # settings that no panel shows

    @property
    def points(self) -> int:
        """Returns the points of a line: fewer where there are many lines."""
        return 60 if len(self.panels) <= 4 else 40

    @property
    def metric(self) -> str:
        return self.panels[0].members[0][2].metric


def _keys(setting: Setting, fields: Sequence[str]) -> tuple[str, ...]:
    return tuple(key(setting.values[field]) for field in fields)


def _fits(panel: tuple[str, ...], keys: tuple[str, ...]) -> bool:
    """Returns whether a setting belongs to a panel; one without an option fits all."""
    return all(b in (_NONE, a) for a, b in zip(panel, keys, strict=True))


def lay_out(settings: Sequence[Setting], *, along: str | None = None) -> Layout:
    """Divides settings of one metric into panels.

    Args:
      settings: one or more.
      along: an option that the x axis shows, so that neither colours nor panels do;
        settings that differ in it alone are together, one after another.
    """
    fields = [field for field in settings[0].values if field != along]
    if len({_keys(s, fields) for s in settings}) <= LINES or not fields:
        return _one_panel(settings, fields if along else [])
    coloured = _coloured(settings, fields)
    others = [field for field in fields if field != coloured]
    names = [label_of(setting.values, [coloured]) for setting in settings]
    tones = {name: tone for tone, name in enumerate(dict.fromkeys(names))}
    keys = {_keys(setting, others): setting for setting in reversed(settings)}
    order = list(dict.fromkeys(_keys(setting, others) for setting in settings))
    full = [values for values in order if _NONE not in values]
    panels, shown = [], set()
    for panel in (full or order)[:PANELS]:
        members = []
        for setting, name in zip(settings, names, strict=True):
            if tones[name] < COLOURS and _fits(panel, _keys(setting, others)):
                members.append((name or setting.label, tones[name], setting))
                shown.add(id(setting))
        panels.append(Panel(label_of(keys[panel].values, others), members))
    return Layout(panels, len(settings) - len(shown))


def _one_panel(settings: Sequence[Setting], fields: Sequence[str]) -> Layout:
    """Returns all settings in a panel; those with the same fields share a colour."""
    labels = [
        (label_of(s.values, fields) if fields else "") or s.label for s in settings
    ]
    tones = {label: tone for tone, label in enumerate(dict.fromkeys(labels))}
    members = [
        (label, tones[label], s) for label, s in zip(labels, settings, strict=True)
    ]
    shown = [member for member in members if member[1] < COLOURS]
    return Layout([Panel("", shown)], len(members) - len(shown))


def varied(settings: Sequence[Setting], field: str) -> bool:
    """Returns whether some settings differ in this option alone."""
    if not settings or field not in settings[0].values:
        return False
    fields = list(settings[0].values)
    others = [name for name in fields if name != field]
    used = [setting for setting in settings if setting.values[field] is not None]
    full = {_keys(setting, fields) for setting in used}
    return len({_keys(setting, others) for setting in used}) < len(full)


def _coloured(settings: Sequence[Setting], fields: Sequence[str]) -> str:
    """Returns the option of the colours: the algorithm, or one with most values."""
    counts = {f: len({_keys(setting, [f]) for setting in settings}) for f in fields}
    if counts.get("algorithm", 0) > 1:
        return "algorithm"
    fitting = [field for field in fields if counts[field] <= LINES] or list(fields)
    return max(fitting, key=lambda field: counts[field])


def _charts(
    layout: Layout,
    title: str,
    draw: Callable[[Panel], list[Series]],
    x: tuple[str, str],
    y: tuple[str, str],
) -> list[Chart]:
    """Returns a chart a panel that has lines; an axis is a label and a kind."""
    charts = []
    for panel in layout.panels:
        if series := tuple(draw(panel)):
            full = f"{title}: {panel.title}" if panel.title else title
            charts.append(Chart(full, x[0], y[0], series, x[1], y[1]))
    return charts


def curves(layout: Layout) -> dict[str, list[Chart]]:
    """Returns the charts of every measure, one a panel, by the measure's name."""
    kind, name = measure(layout.metric)
    test, at_most = f"test_{layout.metric}", layout.points

    def over(column: str) -> Callable[[Panel], list[Series]]:
        return lambda panel: [
            line if len(panel.members) <= _BANDS else replace(line, spread=())
            for label, tone, s in panel.members
            for line in over_rounds(s.results, column, label, tone, at_most=at_most)
        ]

    def path(panel: Panel) -> list[Series]:
        return [
            line
            for label, tone, s in panel.members
            for line in against(s.results, "moved_so_far", test, label, tone, at_most)
        ]

    rounds, so_far = ("round", "count"), ("moved so far", "megabytes")
    share = ("share of examples", "percent")
    measures = [
        (f"Test {name}", over(test), rounds, (name, kind)),
        ("Train loss", over("train_loss"), rounds, ("loss", "number")),
        ("Test loss", over("test_loss"), rounds, ("loss", "number")),
        ("Sparsity", over("sparsity"), rounds, ("sparsity", "percent")),
        ("Bytes of a round", over("moved"), rounds, ("moved, both ways", "megabytes")),
        ("Forget fraction", over("forget_fraction"), rounds, share),
        ("Learned fraction", over("learned_fraction"), rounds, share),
        ("Forget fraction of clients", over("clients_forget_fraction"), rounds, share),
        ("Epsilon", over("epsilon"), rounds, ("epsilon", "number")),
        (f"Test {name} against bytes", path, so_far, (name, kind)),
    ]
    charts = {t: _charts(layout, t, draw, x, y) for t, draw, x, y in measures}
    return {title: of for title, of in charts.items() if of}


def trade_offs(
    settings: Sequence[Setting], y: str, title: str, x: str, axis: tuple[str, str]
) -> list[Chart]:
    """Returns charts of one figure of finished runs against another.

    Args:
      settings: of one metric; those that differ in their final sparsity share a line.
      y: a figure, see `reading.Run.figures`.
      title: of the charts.
      x: another figure.
      axis: its label and its kind, see `scales`.
    """

    def draw(panel: Panel) -> list[Series]:
        members: dict[tuple[str, int], list[Repetitions]] = {}
        for label, tone, setting in panel.members:
            members.setdefault((label, tone), []).append(setting.results)
        lines = [trade_off(of, x, y, *line) for line, of in members.items()]
        return comparable(list(chain.from_iterable(lines)))

    kind, name = measure(settings[0].metric)
    layout = lay_out(settings, along="final_sparsity")
    return _charts(layout, f"{title}, against {x}", draw, axis, (name, kind))

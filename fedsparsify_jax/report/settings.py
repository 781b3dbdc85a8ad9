"""Settings: runs grouped by their options, where seeds are repetitions."""

import dataclasses
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from fedsparsify_jax.report.reading import Run, number
from fedsparsify_jax.report.results import Repetitions
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import NOT_COMPARED
from fedsparsify_jax.runner.options.registry import unused

_DEFAULTS = dataclasses.asdict(TrainConfig())
_LONG = 48  # letters of a label; names of single runs are better than more
# Values of these options need no name beside them.
_SPEAKING = ("algorithm", "dataset", "model", "partition")


def plain(value: Any) -> str:
    """Returns a value of an option as a table shows it.

    >>> plain(None), plain(True), plain(0.9), plain("iid")
    ('–', 'on', '0.9', 'iid')
    """
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (str, float, int)):
        return str(value)
    return json.dumps(value)


def label_of(values: Mapping[str, Any], fields: Collection[str] | None = None) -> str:
    """Returns a legend's label of options, or of some fields alone.

    >>> label_of({"algorithm": "fedavg", "learning_rate": 0.1, "mu": None})
    'fedavg · learning rate 0.1'
    """
    parts = [
        plain(value) if field in _SPEAKING else f"{field.replace('_', ' ')} {value}"
        for field, value in values.items()
        if value is not None and (fields is None or field in fields)
    ]
    return " · ".join(parts)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One set of options and its runs."""

    label: str
    values: dict[str, Any]  # options that differ; None where it has no use for one
    runs: list[Run]

    @property
    def metric(self) -> str:
        return self.runs[0].metric

    @property
    def finished(self) -> bool:
        """Returns whether one of its runs is."""
        return any(run.finished and run.records for run in self.runs)

    @functools.cached_property
    def shown(self) -> list[Run]:
        """Returns the runs that means are of: the finished ones, if there are any."""
        finished = [run for run in self.runs if run.finished and run.records]
        return finished or [run for run in self.runs if run.records]

    @functools.cached_property
    def results(self) -> Repetitions:
        """Returns the results of the runs that are shown."""
        figures = pd.DataFrame([run.figures for run in self.shown], dtype=float)
        return Repetitions(figures, [run.rounds for run in self.shown])


def _idle(options: Mapping[str, Any]) -> list[str]:
    """Returns the options that a run's algorithm has no use for."""
    try:
        # No option has the value that stands for its default.
        return unused(options, dict.fromkeys(options, object()))
    except (KeyError, TypeError):  # of another version, or damaged
        return []


def key(value: Any) -> str:
    """Returns a text that is the same for equal values of an option."""
    return json.dumps(value, sort_keys=True, default=str)


def _value(options: Mapping[str, Any], field: str) -> Any:
    """Returns an option's value; the default where a run is older than the option."""
    return options.get(field, _DEFAULTS.get(field)) if options else None


def common_options(runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    """Returns the options that all runs agree in, and the names of the others.

    Args:
      runs: one or more; those without readable options are passed over.
    """
    readable = [run.options for run in runs if run.options]
    same, differ = {}, []
    for field in dict.fromkeys(field for options in readable for field in options):
        values = {key(_value(options, field)): options for options in readable}
        if len(values) == 1:
            same[field] = _value(readable[0], field)
        elif field not in NOT_COMPARED:
            differ.append(field)
    return same, differ


def _in_order(settings: list[Setting]) -> list[Setting]:
    """Sorts by the values: numbers by size, names by first appearance."""
    places: list[list[tuple[int, float]]] = [[] for _ in settings]
    for field in settings[0].values:
        values = [setting.values[field] for setting in settings]
        codes, _ = pd.factorize(pd.Series(map(key, values)))
        for place, value, code in zip(places, values, codes, strict=True):
            size = number(value)
            kind = 0 if value is None else 1 if size is not None else 2
            place.append((kind, float(code) if size is None else float(size)))
    order = sorted(range(len(settings)), key=lambda n: places[n])
    return [settings[n] for n in order]


def group(runs: Sequence[Run]) -> list[Setting]:
    """Returns runs as settings, in order of their values.

    A seed that is repeated is a setting of its own.

    Args:
      runs: as read, in any state.
    """
    _, differ = common_options(runs)
    fields = [field for field in differ if field != "seed"]
    values = []
    for run in runs:
        idle = _idle(run.options)
        values.append(
            {f: None if f in idle else _value(run.options, f) for f in fields}
        )
    names = pd.Series([run.name for run in runs])
    frame = pd.DataFrame(
        {
            "values": map(key, values),
            "metric": [run.metric for run in runs],
            "unreadable": names.where([not run.options for run in runs], ""),
            "seed": [key(run.options.get("seed")) for run in runs],
        }
    )
    frame["again"] = names.where(frame.duplicated(), "")
    groups = frame.drop(columns="seed").groupby(list(frame.columns.drop("seed")))
    members = sorted(groups.indices.values(), key=lambda rows: rows[0])
    labels = [label_of(values[rows[0]]) for rows in members]
    single = len(members) == len(runs)
    named = single and max(map(len, labels), default=0) > _LONG
    settings = []
    for rows, label in zip(members, labels, strict=True):
        name = runs[rows[0]].name
        if named:
            label = name
        elif not label or labels.count(label) > 1:
            label = f"{label} · {name}".removeprefix(" · ")
        settings.append(Setting(label, values[rows[0]], [runs[n] for n in rows]))
    return _in_order(settings)

"""Runs that differ in their seed alone are repetitions of one setting."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from fedsparsify_jax.report.reading import Record, Run, number
from fedsparsify_jax.runner.options.config import NOT_COMPARED, TrainConfig
from fedsparsify_jax.runner.options.registry import unused

Points = list[tuple[float, float]]

_DEFAULTS = dataclasses.asdict(TrainConfig())
_LONG = 48  # letters of a label; names of single runs are better than more
# Values of these say by themselves what they are.
_SPEAKING = ("algorithm", "dataset", "model", "partition")


def plain(value: Any) -> str:
    """A value of an option, as in a table.

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
    """What sets a setting apart, in a legend; of some fields alone if they are named.

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
    values: dict[str, Any]  # what sets it apart; None where it has no use for it
    runs: list[Run]

    @property
    def metric(self) -> str:
        return self.runs[0].metric

    @property
    def finished(self) -> bool:
        """Whether one of its runs is."""
        return any(run.finished and run.records for run in self.runs)

    @property
    def shown(self) -> list[Run]:
        """The runs that means are of: the finished ones, if there are any."""
        finished = [run for run in self.runs if run.finished and run.records]
        return finished or [run for run in self.runs if run.records]

    def curve(
        self, field: Callable[[Record], float | None] | str
    ) -> tuple[Points, Points]:
        """A quantity's mean over the runs, and its range, round by round.

        Args:
          field: of the records, or what computes it from one.

        Returns:
          ``(round, mean)`` and, for several runs, ``(lowest, highest)``; rounds that a
          run lacks are left out.
        """
        columns = []
        for run in self.shown:
            columns.append({at: y for at, y in run.column(field) if y is not None})
        if not columns:
            return [], []
        rounds = sorted(set.intersection(*(set(column) for column in columns)))
        rows = [[column[at] for column in columns] for at in rounds]
        points = [
            (float(at), statistics.fmean(row))
            for at, row in zip(rounds, rows, strict=True)
        ]
        spread = [(min(row), max(row)) for row in rows] if len(columns) > 1 else []
        return points, spread

    def values_of(self, figure: Callable[[Run], float | None]) -> list[float]:
        """A figure of every shown run that has it."""
        found = [figure(run) for run in self.shown]
        return [value for value in found if value is not None]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None] | None:
    """Mean and sample standard deviation, None of nothing.

    >>> mean_and_deviation([1.0, 2.0, 3.0]), mean_and_deviation([1.0])
    ((2.0, 1.0), (1.0, None))
    """
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation


def _idle(options: Mapping[str, Any]) -> list[str]:
    """The options that a run's algorithm has no use for."""
    try:
        # No option has the value that stands for "not given".
        return unused(options, dict.fromkeys(options, object()))
    except (KeyError, TypeError):  # of another version, or damaged
        return []


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _value(options: Mapping[str, Any], field: str) -> Any:
    """An option's value; the default where a run is older than the option."""
    return options.get(field, _DEFAULTS.get(field)) if options else None


def common_options(runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    """The options that all runs agree in, and the names of the others.

    Args:
      runs: one or more; those without readable options are passed over.
    """
    known = [run.options for run in runs if run.options]
    fields = list(dict.fromkeys(field for options in known for field in options))
    same, differ = {}, []
    for field in fields:
        values = {_key(_value(options, field)) for options in known}
        if len(values) == 1:
            same[field] = _value(known[0], field)
        elif field not in NOT_COMPARED:
            differ.append(field)
    return same, differ


def _in_order(rows: list[tuple[dict[str, Any], list[Run]]]) -> list[Any]:
    """By their values: numbers by size, names by first appearance."""
    seen: dict[str, list[str]] = {}
    for values, _ in rows:
        for field, value in values.items():
            seen.setdefault(field, []).append(_key(value))

    def place(row: tuple[dict[str, Any], list[Run]]) -> list[tuple[int, float]]:
        places = []
        for field, value in row[0].items():
            size = number(value)
            names = float(seen[field].index(_key(value)))
            kind = 0 if value is None else 1 if size is not None else 2
            places.append((kind, names if size is None else float(size)))
        return places

    return sorted(rows, key=place)


def group(runs: Sequence[Run]) -> list[Setting]:
    """Runs as settings, in order of their values; a repeated seed is one of its own.

    Args:
      runs: as read, in any state.
    """
    _, differ = common_options(runs)
    fields = [field for field in differ if field != "seed"]
    found: dict[Any, tuple[dict[str, Any], list[Run]]] = {}
    for run in runs:
        idle = _idle(run.options)
        values = {
            field: None if field in idle else _value(run.options, field)
            for field in fields
        }
        key: Any = (_key(values), run.metric, run.name if not run.options else "")
        seeds = [other.options.get("seed") for other in found.get(key, ({}, []))[1]]
        if run.options.get("seed") in seeds:
            key = (*key, run.name)
        found.setdefault(key, (values, []))[1].append(run)
    labels = [label_of(values) for values, _ in found.values()]
    single = all(len(members) == 1 for _, members in found.values())
    named = single and max(map(len, labels), default=0) > _LONG
    settings = []
    for values, members in _in_order(list(found.values())):
        label = label_of(values)
        alone = label and labels.count(label) == 1
        if named:
            settings.append(Setting(members[0].name, values, members))
            continue
        name = label if alone else f"{label} · {members[0].name}".removeprefix(" · ")
        settings.append(Setting(name, values, members))
    return settings

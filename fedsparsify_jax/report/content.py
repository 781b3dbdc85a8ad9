"""A report's sections, the same for a page and for Markdown."""

import dataclasses
from collections.abc import Mapping, Sequence

from fedsparsify_jax.report import figures_of_run, panels, tables
from fedsparsify_jax.report.charts import Figure
from fedsparsify_jax.report.reading import Run, printable
from fedsparsify_jax.report.scales import text
from fedsparsify_jax.report.settings import Setting, common_options, group, plain
from fedsparsify_jax.report.tables import Table
from fedsparsify_jax.runner.display.progress import duration
from fedsparsify_jax.runner.options.config import NOT_COMPARED, TrainConfig

Tile = tuple[str, str, str]  # name, value, remark

_PARTITIONS = 4  # client tables
_MISSING = 12  # kinds of what is missing
_MAPS = 4  # heat maps


@dataclasses.dataclass(frozen=True)
class Block:
    """Part of a section; one with a title can be folded."""

    title: str = ""
    folded: bool = False
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    name: str  # short, for links
    title: str
    words: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    shared: bool = False  # all its charts have the same series: one legend


@dataclasses.dataclass(frozen=True)
class Report:
    """All that is shown."""

    title: str
    subtitle: str
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    runs: tuple[Run, ...]


def _missing(runs: Sequence[Run]) -> Section | None:
    """What is missing, and in which runs."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for what in run.missing:
            found.setdefault(what, []).append(run.name)
    if not found:
        return None
    rows = []
    for what, names in list(found.items())[:_MISSING]:
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        cells = (tables.Cell(what), tables.Cell(str(len(names)), len(names)))
        rows.append((*cells, tables.Cell(names[0] + more)))
    left = len(found) - len(rows)
    note = f"And {left:,} other kinds." if left else ""
    table = Table("Missing or damaged", ("What", "Runs", "Which"), tuple(rows), note)
    return Section("missing", "What is missing", (), (Block(tables=(table,)),))


def _by_metric(settings: Sequence[Setting]) -> list[list[Setting]]:
    found: dict[str, list[Setting]] = {}
    for setting in settings:
        found.setdefault(setting.metric, []).append(setting)
    return list(found.values())


def _results(settings: Sequence[Setting], runs: Sequence[Run]) -> Section:
    blocks = [Block(tables=(tables.comparison(s),)) for s in _by_metric(settings)]
    blocks.append(Block("Bytes", folded=True, tables=(tables.traffic(settings),)))
    if len(runs) > len(settings):
        every = Block("Every run", folded=True, tables=(tables.every_run(runs),))
        blocks.append(every)
    return Section("results", "Results", blocks=tuple(blocks))


def _in_blocks(charts: Mapping[str, Sequence[Figure]]) -> tuple[Block, ...]:
    """A block a measure, all but the first folded; of one chart each, all in one."""
    if all(len(of) <= 1 for of in charts.values()):
        return (Block(figures=tuple(chart for of in charts.values() for chart in of)),)
    return tuple(
        Block(title, folded=n > 0, figures=tuple(of))
        for n, (title, of) in enumerate(charts.items())
    )


def _trade_offs(settings: Sequence[Setting]) -> list[Section]:
    """Against sparsity and bytes, where the final sparsity was varied."""
    found = []
    for metric in _by_metric(settings):
        shown = [setting for setting in metric if setting.finished]
        if not panels.varied(shown, "final_sparsity"):
            continue
        _, name = figures_of_run.measure(shown[0])
        late = f"{name.capitalize()}, mean of the last {tables.LAST} rounds"
        drawn = {}
        for title, pick in {late: tables.late, f"Final {name}": tables.final}.items():
            drawn[f"{title}, against sparsity"] = panels.trade_offs(
                shown, pick, title, tables.sparsity, "sparsity", "percent"
            )
        drawn[f"{late}, against bytes"] = panels.trade_offs(
            shown, tables.late, late, tables.all_bytes, "moved", "megabytes"
        )
        blocks = _in_blocks(drawn)
        words = (
            "Of finished runs. A dot a final sparsity; bars are the standard deviation "
            "over seeds. Dashed lines are settings that do not prune.",
        )
        title = f"{name.capitalize()} against sparsity and bytes"
        found.append(
            Section(f"sparsity-{metric[0].metric}", title, words, blocks, True)
        )
    return found


def _curves(settings: Sequence[Setting]) -> list[Section]:
    if len(settings) == 1:
        charts = tuple(figures_of_run.run_charts(settings[0]))
        empty = () if charts else ("There is no round to draw.",)
        return [Section("curves", "Curves", empty, (Block(figures=charts),))]
    found = []
    for metric in _by_metric([setting for setting in settings if setting.shown]):
        layout = panels.lay_out(metric)
        measures = panels.curves(layout)
        words = []
        if any(len(setting.shown) > 1 for setting in metric):
            words.append("Means over seeds; bands, where shown, are their range.")
        if layout.left_out:
            words.append(f"{layout.left_out} settings are in the table alone.")
        blocks = _in_blocks(measures)
        name = f"curves-{metric[0].metric}"
        found.append(Section(name, "Curves", tuple(words), blocks, True))
    return found


def _layers(settings: Sequence[Setting]) -> Section:
    blocks: list[Block] = []
    alone = len(settings) == 1
    for setting in settings:
        title = "Sparsity of every tensor" if alone else setting.label
        chart, table = figures_of_run.heat_map(setting, title), tables.layers(setting)
        if chart is not None and table is not None:
            block = Block("" if alone else title, bool(blocks), (chart,), (table,))
            blocks.append(block)
        if len(blocks) == _MAPS:
            break
    words = ["Share of each tensor that is zero, round by round."]
    if len(settings) > len(blocks) > 0:
        words.append(
            f"Of {len(blocks)} of the {len(settings)} settings; name one run for a "
            "report of its own."
        )
    if not blocks:
        words = [
            "Not known: the rounds do not say what they keep, or there is neither a "
            "model nor a dense round to compare with."
        ]
    return Section("layers", "Layers", tuple(words), tuple(blocks))


def _clients(runs: Sequence[Run]) -> Section:
    found: dict[str, tuple[Run, Table]] = {}
    for run in runs:
        table = tables.clients(run)
        if table is not None:
            found.setdefault(repr(table.rows), (run, table))
    words = []
    if not found:
        words.append(
            "Not known: the runs were written by a version that kept no "
            "partition.json (train --show-partition prints the table)."
        )
    if len(found) > _PARTITIONS:
        words.append(f"The first {_PARTITIONS} of {len(found)} partitions.")
    blocks = []
    for run, table in list(found.values())[:_PARTITIONS]:
        keys = ("partition", "num_clients", "seed")
        said = [f"{k.replace('_', ' ')} {plain(run.options.get(k))}" for k in keys]
        title = ", ".join(said)
        blocks.append(Block(title, folded=len(table.rows) > 20, tables=(table,)))
    return Section("clients", "Clients", tuple(words), tuple(blocks))


def _configuration(runs: Sequence[Run]) -> Section:
    same, differ = common_options(runs)
    if not same and not differ:
        unknown = ("No run has a readable config.json.",)
        return Section("configuration", "Configuration", unknown)
    default = TrainConfig()
    given = {
        field: value
        for field, value in same.items()
        if value != getattr(default, field, None) and field not in NOT_COMPARED
    }
    words = []
    if differ:
        named = ", ".join("--" + field.replace("_", "-") for field in differ)
        words.append(f"The runs differ in {named}.")
    versions = {repr(run.versions) for run in runs if run.versions}
    if len(versions) > 1:
        words.append("They were made with different versions of the software.")
    versions_table = tables.Table(
        "Versions",
        ("Package", "Version"),
        tuple(
            (tables.Cell(str(name)), tables.Cell(plain(version)))
            for run in runs[:1]
            for name, version in run.versions.items()
        ),
    )
    title = "Options in all runs" if differ else "Options"
    every = (tables.options(same, "All options"), versions_table)
    blocks = (
        Block(tables=(tables.options(given, title),)),
        Block("All options and versions", folded=True, tables=every),
    )
    return Section("configuration", "Configuration", tuple(words), blocks)


def _tiles(settings: Sequence[Setting], runs: Sequence[Run]) -> list[Tile]:
    """The few figures that stand above all."""
    if len(settings) > 1:
        done = sum(run.finished for run in runs)
        tiles = [
            (
                "settings",
                f"{len(settings):,}",
                "runs that differ in their seed are one",
            ),
            ("runs", f"{len(runs):,}", f"{done:,} finished"),
        ]
        told = [s for s in settings if s.finished] or [s for s in settings if s.shown]
        for metric in _by_metric(told):
            kind, name = figures_of_run.measure(metric[0])
            pick = min if metric[0].metric == "mae" else max
            means = [(tables.spoken(s.values_of(tables.late), kind), s) for s in metric]
            known = [(c, s) for c, s in means if c.value is not None]
            if known:
                cell, of = pick(known, key=lambda found: found[0].value or 0.0)
                tiles.append((f"highest {name}, last 10", cell.words, of.label))
        return tiles
    (setting,) = settings
    kind, name = figures_of_run.measure(setting)
    say = tables.spoken
    late = say(setting.values_of(tables.late), kind).words
    times = say(setting.values_of(tables.saving), "times").words
    rounds = [run.records[-1]["round"] for run in runs if run.records]
    seconds = sum(run.totals.get("seconds", 0.0) for run in runs)
    target = runs[0].options.get("final_sparsity")
    aim = f"final target {text(target, 'percent')}" if isinstance(target, float) else ""
    return [
        (
            f"final {name}",
            say(setting.values_of(tables.final), kind).words,
            f"last {tables.LAST} rounds {late}",
        ),
        ("sparsity", say(setting.values_of(tables.sparsity), "percent").words, aim),
        (
            "bytes moved",
            say(setting.values_of(tables.all_bytes), "megabytes").words,
            f"{times} fewer than dense",
        ),
        ("rounds", f"{max(rounds, default=0):,}", f"in {duration(seconds)}"),
    ]


def _subtitle(runs: Sequence[Run]) -> str:
    same, _ = common_options(runs)
    words = [plain(same[f]) for f in ("algorithm", "dataset", "model") if f in same]
    if "num_clients" in same:
        words.append(f"{plain(same['num_clients'])} clients")
    return " · ".join(words)


def compose(runs: Sequence[Run], title: str) -> Report:
    """What there is to say about runs.

    Args:
      runs: one or more, as read.
      title: of the report.
    """
    settings = group(runs)
    sections = [
        _missing(runs),
        _results(settings, runs),
        *_trade_offs(settings),
        *_curves(settings),
        _layers(settings),
        _clients(runs),
        _configuration(runs),
    ]
    return Report(
        printable(title),
        _subtitle(runs),
        tuple(_tiles(settings, runs)),
        tuple(section for section in sections if section is not None),
        tuple(runs),
    )

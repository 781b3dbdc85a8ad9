"""Content of a report: its sections, the same for a page and for Markdown."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from fedsparsify_jax.report import figures_of_run, panels, tables
from fedsparsify_jax.report.charts import Figure
from fedsparsify_jax.report.lines import measure
from fedsparsify_jax.report.reading import LAST, Run, printable
from fedsparsify_jax.report.scales import text
from fedsparsify_jax.report.settings import Setting, common_options, group, plain
from fedsparsify_jax.report.tables import Table
from fedsparsify_jax.runner.display.progress import duration
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import NOT_COMPARED

Tile = tuple[str, str, str]  # name, value, remark

_PARTITIONS = 4  # client tables
_MISSING = 12  # kinds of damage
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
    """A heading and the blocks under it."""

    name: str  # short, for links
    title: str
    words: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    shared: bool = False  # all its charts have the same series: one legend

    @property
    def figures(self) -> list[Figure]:
        """Returns the figures of all blocks, in order."""
        return [figure for block in self.blocks for figure in block.figures]


@dataclasses.dataclass(frozen=True)
class Report:
    """A title, the tiles above all, and the sections."""

    title: str
    subtitle: str
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    runs: tuple[Run, ...]

    @property
    def figures(self) -> list[Figure]:
        """Returns the figures of all sections, in order."""
        return [figure for section in self.sections for figure in section.figures]


def _missing(runs: Sequence[Run]) -> Section | None:
    """Returns the kinds of missing and damaged files, with the runs that have them."""
    names: dict[str, list[str]] = {}
    for run in runs:
        for kind in run.missing:
            names.setdefault(kind, []).append(run.name)
    if not names:
        return None
    rows = []
    for kind, of in list(names.items())[:_MISSING]:
        more = f" and {len(of) - 1:,} more" if len(of) > 1 else ""
        cells = (tables.Cell(kind), tables.Cell(str(len(of)), len(of)))
        rows.append((*cells, tables.Cell(of[0] + more)))
    left = len(names) - len(rows)
    note = f"And {left:,} other kinds." if left else ""
    table = Table("Missing or damaged", ("What", "Runs", "Which"), tuple(rows), note)
    return Section("missing", "What is missing", (), (Block(tables=(table,)),))


def _by_metric(settings: Iterable[Setting]) -> list[list[Setting]]:
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(setting.metric, []).append(setting)
    return list(groups.values())


def _results(settings: Sequence[Setting], runs: Sequence[Run]) -> Section:
    blocks = [Block(tables=(tables.comparison(s),)) for s in _by_metric(settings)]
    blocks.append(Block("Bytes", folded=True, tables=(tables.traffic(settings),)))
    if len(runs) > len(settings):
        every = Block("Every run", folded=True, tables=(tables.every_run(runs),))
        blocks.append(every)
    return Section("results", "Results", blocks=tuple(blocks))


def _in_blocks(charts: Mapping[str, Sequence[Figure]]) -> tuple[Block, ...]:
    """Returns a block a measure, all but the first folded; of one chart each, one."""
    if all(len(of) <= 1 for of in charts.values()):
        return (Block(figures=tuple(chart for of in charts.values() for chart in of)),)
    return tuple(
        Block(title, folded=n > 0, figures=tuple(of))
        for n, (title, of) in enumerate(charts.items())
    )


def _trade_offs(settings: Sequence[Setting]) -> list[Section]:
    """Returns charts against sparsity and bytes, if the final sparsity was varied."""
    sections = []
    for finished in _by_metric(s for s in settings if s.finished):
        if not panels.varied(finished, "final_sparsity"):
            continue
        _, name = measure(finished[0].metric)
        late = f"{name.capitalize()}, mean of the last {LAST} rounds"
        share, moved = ("sparsity", "percent"), ("moved", "megabytes")
        charts = [
            panels.trade_offs(finished, "last_10", late, "sparsity", share),
            panels.trade_offs(finished, "final", f"Final {name}", "sparsity", share),
            panels.trade_offs(finished, "last_10", late, "bytes", moved),
        ]
        titles = [f"{late}, against sparsity", f"Final {name}, against sparsity"]
        titles.append(f"{late}, against bytes")
        words = (
            "Of finished runs. A dot a final sparsity; bars are the standard deviation "
            "over seeds. Dashed lines are settings that do not prune.",
        )
        title = f"{name.capitalize()} against sparsity and bytes"
        blocks = _in_blocks(dict(zip(titles, charts, strict=True)))
        section = f"sparsity-{finished[0].metric}"
        sections.append(Section(section, title, words, blocks, True))
    return sections


def _curves(settings: Sequence[Setting]) -> list[Section]:
    if len(settings) == 1:
        charts = tuple(figures_of_run.run_charts(settings[0]))
        empty = () if charts else ("There is no round to draw.",)
        return [Section("curves", "Curves", empty, (Block(figures=charts),))]
    sections = []
    for metric in _by_metric(setting for setting in settings if setting.shown):
        layout = panels.lay_out(metric)
        words = []
        if any(len(setting.shown) > 1 for setting in metric):
            words.append("Means over seeds; bands, where shown, are their range.")
        if layout.left_out:
            words.append(f"{layout.left_out} settings are in the table alone.")
        blocks, name = _in_blocks(panels.curves(layout)), f"curves-{metric[0].metric}"
        sections.append(Section(name, "Curves", tuple(words), blocks, True))
    return sections


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
    partitions: dict[str, tuple[Run, Table]] = {}
    for run in runs:
        table = tables.clients(run)
        if table is not None:
            partitions.setdefault(repr(table.rows), (run, table))
    words = []
    if not partitions:
        words.append(
            "Not known: the runs were written by a version that kept no "
            "partition.json (train --show-partition prints the table)."
        )
    if len(partitions) > _PARTITIONS:
        words.append(f"The first {_PARTITIONS} of {len(partitions)} partitions.")
    judged = tables.client_accuracies(runs)
    blocks = [] if judged is None else [Block(tables=(judged,))]
    for run, table in list(partitions.values())[:_PARTITIONS]:
        fields = ("partition", "num_clients", "seed")
        count = {"num_clients": (run.partition or {}).get("clients")}
        options = run.options | (count if not run.options.get("num_clients") else {})
        title = ", ".join(
            f"{f.replace('_', ' ')} {plain(options.get(f))}" for f in fields
        )
        blocks.append(Block(title, folded=len(table.rows) > 20, tables=(table,)))
    return Section("clients", "Clients", tuple(words), tuple(blocks))


def _configuration(runs: Sequence[Run]) -> Section:
    same, differ = common_options(runs)
    if not same and not differ:
        unknown = ("No run has a readable config.json.",)
        return Section("configuration", "Configuration", unknown)
    default = TrainConfig()
    changed = {
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
        Block(tables=(tables.options(changed, title),)),
        Block("All options and versions", folded=True, tables=every),
    )
    return Section("configuration", "Configuration", tuple(words), blocks)


def _tiles(settings: Sequence[Setting], runs: Sequence[Run]) -> list[Tile]:
    """Returns the few figures that stand above all."""
    if len(settings) == 1:
        return _tiles_of_one(settings[0])
    done = sum(run.finished for run in runs)
    remark = "runs that differ in their seed are one"
    tiles = [
        ("settings", f"{len(settings):,}", remark),
        ("runs", f"{len(runs):,}", f"{done:,} finished"),
    ]
    judged = [s for s in settings if s.finished] or [s for s in settings if s.shown]
    for metric in _by_metric(judged):
        kind, name = measure(metric[0].metric)
        pick = min if metric[0].metric == "mae" else max
        late = [(s.results.spread("last_10"), s) for s in metric]
        means = [(results, s) for results, s in late if results is not None]
        if means:
            results, setting = pick(means, key=lambda pair: pair[0].mean)
            words = tables.cell_of(results, kind).words
            tiles.append((f"highest {name}, last 10", words, setting.label))
    return tiles


def _tiles_of_one(setting: Setting) -> list[Tile]:
    def words(figure: str, kind: str) -> str:
        return tables.cell_of(setting.results.spread(figure), kind).words

    kind, name = measure(setting.metric)
    rounds = [run.records[-1]["round"] for run in setting.runs if run.records]
    seconds = sum(run.figures.get("seconds", 0.0) for run in setting.runs)
    target = setting.runs[0].options.get("final_sparsity")
    aim = f"final target {text(target, 'percent')}" if isinstance(target, float) else ""
    late = f"last {LAST} rounds {words('last_10', kind)}"
    saving = f"{words('saving', 'times')} fewer than dense"
    return [
        (f"final {name}", words("final", kind), late),
        ("sparsity", words("sparsity", "percent"), aim),
        ("bytes moved", words("bytes", "megabytes"), saving),
        ("rounds", f"{max(rounds, default=0):,}", f"in {duration(seconds)}"),
    ]


def _subtitle(runs: Sequence[Run]) -> str:
    same, _ = common_options(runs)
    words = [plain(same[f]) for f in ("algorithm", "dataset", "model") if f in same]
    if same.get("num_clients") is not None:
        words.append(f"{plain(same['num_clients'])} clients")
    return " · ".join(words)


def compose(runs: Sequence[Run], title: str) -> Report:
    """Returns the report of runs.

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

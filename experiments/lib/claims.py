"""The paper's claims against what was measured: tables and verdicts, no prose by hand.

A comparison holds, or not, by the 95 % interval of the paired difference in the mean
accuracy of the last ten rounds; where 0 is inside, the two are the same within noise.
"""

import dataclasses
import statistics
from collections.abc import Sequence

from experiments.lib import markdown
from experiments.lib.collecting import Line
from experiments.lib.reporting import Report
from experiments.lib.results import Results
from experiments.lib.stats import Difference
from fedsparsify_jax.metrics.communication import saving

MEASURE = "last_10"
GLOBAL, LOCAL, DENSE = "fedsparsify-global", "fedsparsify-local", "fedavg"
_SHORT = {"iid": "IID", "label-shards": "non-IID"}

NONE = "nowhere"


def add(report: Report, results: Results) -> None:
    """Adds a block for every claim to the report of a table of methods."""
    report.add("claim-tenth", "Global against dense FedAvg", tenth(results))
    report.add("claim-local", "Local against Global", local(results))
    report.add("claim-baselines", "Global against the baselines", baselines(results))
    report.add("claim-bytes", "Saving in communication", traffic(results))
    _swings(report, results)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One paired difference and where it was taken."""

    other: str
    partition: str
    sparsity: float
    gap: Difference


def _places(found: Sequence[Comparison]) -> str:
    """``IID 80, 85 %; non-IID 99 %``."""
    places: dict[str, list[str]] = {}
    for each in found:
        name = _SHORT.get(each.partition, each.partition)
        places.setdefault(name, []).append(f"{100 * each.sparsity:.0f}")
    return "; ".join(f"{name} {', '.join(at)} %" for name, at in places.items())


def _sorted_out(found: Sequence[Comparison], above: str, below: str) -> str:
    """Which comparisons are clear, method by method."""
    if not found:
        return "One seed or none: nothing can be said of noise."
    rows = []
    for other in dict.fromkeys(each.other for each in found):
        mine = [each for each in found if each.other == other]
        noise = [each for each in mine if each.gap.noise]
        clear = [each for each in mine if not each.gap.noise]
        ahead = [each for each in clear if each.gap.mean > 0]
        behind = [each for each in clear if each.gap.mean <= 0]
        cells = [_places(group) or NONE for group in (ahead, noise, behind)]
        rows.append([other, *cells])
    return markdown.table(["against", above, "the same within noise", below], rows)


def against(
    results: Results, row: str, others: Sequence[str], above: str, below: str
) -> str:
    """A row minus others, at all sparsities and on all partitions.

    Args:
      results: of the table.
      row: a row's key.
      others: keys of those to subtract.
      above: what to call comparisons that the row wins beyond the interval.
      below: those that it loses.
    """
    sparsities = results.axis("final_sparsity")
    rows, found = [], []
    for partition in results.axis("partition"):
        for other in others:
            cells = []
            for target in sparsities:
                place = {"partition": partition, "final_sparsity": target}
                gap = results.difference(row, MEASURE, of=other, **place)
                cells.append(
                    markdown.difference(results, row, MEASURE, of=other, **place)
                )
                if gap is not None:
                    name = results.label(other)
                    found.append(Comparison(name, partition, target, gap))
            label = f"{results.label(other)}, {_SHORT.get(partition, partition)}"
            rows.append([label, *cells])
    head = [f"{results.label(row)} minus", *map(markdown.percent, sparsities)]
    table = markdown.table(head, rows)
    return f"{table}\n\n{_sorted_out(found, above, below)}"


def tenth(results: Results) -> str:
    """Global against the dense model."""
    return against(results, GLOBAL, [DENSE], "better than dense", "worse than dense")


def local(results: Results) -> str:
    """Local against Global."""
    return against(
        results, LOCAL, [GLOBAL], "Local ahead of Global", "Local behind Global"
    )


def baselines(results: Results) -> str:
    """Global against every other pruning method."""
    others = [row for row in results.rows if not results.dense(row)]
    others = [row for row in others if row not in (GLOBAL, LOCAL)]
    return against(results, GLOBAL, others, "Global ahead", "Global behind")


def traffic(results: Results) -> str:
    """What was measured beside what the schedule alone says."""
    rows = []
    for target in results.axis("final_sparsity"):
        cells = list(results.cells(GLOBAL, final_sparsity=target).values())
        if not cells:
            rows.append([markdown.percent(target), *[markdown.EMPTY] * 3])
            continue
        options = cells[0]["options"]
        clients = round(options["num_clients"] * options["participation"])
        said = saving(target, options["rounds"], clients, cells[0]["parameters"]).ratio
        measured = statistics.fmean(map(markdown.saved, cells))
        masks = statistics.fmean(map(markdown.saved_with_masks, cells))
        columns = [f"{measured:.3f} x", f"{said:.3f} x", f"{masks:.3f} x"]
        rows.append([markdown.percent(target), *columns])
    head = ["final sparsity", "measured", "by the schedule", "with one-bit masks"]
    return markdown.table(head, rows)


def swing(line: Line) -> float:
    """Best minus worst accuracy among the last ten rounds."""
    last = [value for value in line["curves"][line["metric"]] if value is not None]
    return max(last[-10:]) - min(last[-10:])


def _swings(report: Report, results: Results) -> None:
    """How far the accuracy of the last ten rounds goes up and down, in points."""
    shown = [row for row in (DENSE, "momentum", GLOBAL, LOCAL) if row in results.rows]
    for panel in results.panels:
        report.add(
            f"claim-swings-{panel.key}",
            f"Best minus worst of the last ten rounds, in points, {panel.title}",
            markdown.by_sparsity(results, swing, shown, **panel.point),
        )

"""The paper's claims against measurements: tables and verdicts, no prose by hand.

A comparison holds, or not, by the 95 % interval of the paired difference in the mean
accuracy of the last five rounds; where 0 is inside, the two are the same within noise.
"""

import dataclasses
import statistics
from collections.abc import Sequence

from experiments.lib import markdown
from experiments.lib.collecting import Line
from experiments.lib.reporting import Report
from experiments.lib.results import Results, saving, saving_with_masks
from fedsparsify_jax.metrics import communication
from fedsparsify_jax.report.results import Difference

MEASURE = "last_5"
GLOBAL, LOCAL, DENSE = "fedsparsify-global", "fedsparsify-local", "fedavg"
SHORT = {"iid": "IID", "label-shards": "non-IID"}

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
    """One paired difference, with its row and its place."""

    other: str
    partition: str
    sparsity: float
    gap: Difference


def compared(results: Results, row: str, others: Sequence[str]) -> list[Comparison]:
    """Returns a row minus others, wherever two seeds or more have both."""
    comparisons = []
    for other in others:
        for partition in results.axis("partition"):
            for target in results.axis("final_sparsity"):
                place = {"partition": partition, "final_sparsity": target}
                gap = results.difference(row, MEASURE, of=other, **place)
                if gap is not None and gap.half is not None:
                    name = results.label(other)
                    comparisons.append(Comparison(name, partition, target, gap))
    return comparisons


def _places(comparisons: Sequence[Comparison]) -> str:
    """Returns ``IID 80, 85 %; non-IID 99 %``."""
    places: dict[str, list[str]] = {}
    for each in comparisons:
        name = SHORT.get(each.partition, each.partition)
        places.setdefault(name, []).append(f"{100 * each.sparsity:.0f}")
    return "; ".join(f"{name} {', '.join(at)} %" for name, at in places.items())


def _verdicts(comparisons: Sequence[Comparison], above: str, below: str) -> str:
    """Returns a table of the comparisons that are clear, method by method."""
    if not comparisons:
        return "One seed or none: nothing can be said of noise."
    rows = []
    for other in dict.fromkeys(each.other for each in comparisons):
        of_it = [each for each in comparisons if each.other == other]
        noise = [each for each in of_it if each.gap.noise]
        clear = [each for each in of_it if not each.gap.noise]
        ahead = [each for each in clear if each.gap.mean > 0]
        behind = [each for each in clear if each.gap.mean <= 0]
        rows.append([other, *(_places(s) or NONE for s in (ahead, noise, behind))])
    return markdown.table(["against", above, "the same within noise", below], rows)


def against(
    results: Results, row: str, others: Sequence[str], above: str, below: str
) -> str:
    """Returns a row minus others, at all sparsities and on all partitions.

    Args:
      results: of the table.
      row: a row's key.
      others: keys of those to subtract.
      above: name of comparisons that the row wins beyond the interval.
      below: name of those that it loses.
    """
    sparsities, rows = results.axis("final_sparsity"), []
    for partition in results.axis("partition"):
        for other in others:
            name, cells = results.label(other), []
            for target in sparsities:
                place = {"partition": partition, "final_sparsity": target}
                gap = results.difference(row, MEASURE, of=other, **place)
                cells.append(gap.text(results.scale) if gap else markdown.EMPTY)
            rows.append([f"{name}, {SHORT.get(partition, partition)}", *cells])
    head = [f"{results.label(row)} minus", *map(markdown.percent, sparsities)]
    table = markdown.table(head, rows)
    verdicts = _verdicts(compared(results, row, others), above, below)
    return f"{table}\n\n{verdicts}"


def tenth(results: Results) -> str:
    """Returns Global against the dense model."""
    return against(results, GLOBAL, [DENSE], "better than dense", "worse than dense")


def local(results: Results) -> str:
    """Returns Local against Global."""
    return against(
        results, LOCAL, [GLOBAL], "Local ahead of Global", "Local behind Global"
    )


def baselines(results: Results) -> str:
    """Returns Global against every other pruning method."""
    others = [row for row in results.rows if not results.dense(row)]
    others = [row for row in others if row not in (GLOBAL, LOCAL)]
    return against(results, GLOBAL, others, "Global ahead", "Global behind")


def traffic(results: Results) -> str:
    """Returns the measured saving beside that of the schedule alone."""
    rows = []
    for target in results.axis("final_sparsity"):
        lines = list(results.cells(GLOBAL, final_sparsity=target).values())
        if not lines:
            rows.append([markdown.percent(target), *[markdown.EMPTY] * 3])
            continue
        options, parameters = lines[0]["options"], lines[0]["parameters"]
        clients = round(options["num_clients"] * options["participation"])
        by_schedule = communication.saving(
            target, options["rounds"], clients, parameters
        ).ratio
        measured = statistics.fmean(map(saving, lines))
        masks = statistics.fmean(map(saving_with_masks, lines))
        columns = [f"{ratio:.3f} x" for ratio in (measured, by_schedule, masks)]
        rows.append([markdown.percent(target), *columns])
    head = ["final sparsity", "measured", "by the schedule", "with one-bit masks"]
    return markdown.table(head, rows)


def swing(line: Line) -> float:
    """Returns best minus worst accuracy among the last ten rounds."""
    last = [value for value in line["curves"][line["metric"]] if value is not None]
    return max(last[-10:]) - min(last[-10:])


def _swings(report: Report, results: Results) -> None:
    """Adds the swings of accuracy in the last ten rounds, in points."""
    shown = [row for row in (DENSE, "momentum", GLOBAL, LOCAL) if row in results.rows]
    for panel in results.panels:
        report.add(
            f"claim-swings-{panel.key}",
            f"Best minus worst of the last ten rounds, in points, {panel.title}",
            markdown.by_sparsity(
                results,
                markdown.value(results, swing),
                shown,
                dense=True,
                **panel.point,
            ),
        )

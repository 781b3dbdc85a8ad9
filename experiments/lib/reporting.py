"""Reports of tables: blocks of Markdown and figures, all from committed lines."""

import dataclasses
from collections.abc import Callable

from experiments.lib import figures, markdown
from experiments.lib.results import MEASURES, Results


@dataclasses.dataclass
class Report:
    """Blocks by name, each with its heading, and figures by name."""

    blocks: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    figures: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, name: str, heading: str, text: str) -> None:
        """Adds a block."""
        self.blocks[name] = (heading, text)


ReportOf = Callable[[Results], Report]


def methods(results: Results) -> Report:
    """Returns accuracy, differences, sparsity and bytes against final sparsity."""
    report = Report()
    accuracy = results.metric == "accuracy"
    what = "Test accuracy in %" if accuracy else "Mean absolute error in years"
    unit = "points" if accuracy else "years"
    for panel in results.panels:
        name = panel.title
        for measure, text in MEASURES.items():
            report.add(
                f"{measure}-{panel.key}",
                f"{what}, {text}, {name}",
                markdown.by_sparsity(
                    results,
                    markdown.value(results, measure),
                    dense=True,
                    **panel.point,
                ),
            )
        report.add(
            f"differences-{panel.key}",
            f"Paired differences in {unit}, mean of the last five rounds, {name}",
            markdown.differences(results, "last_5", **panel.point),
        )
        report.add(
            f"sparsity-{panel.key}",
            f"Sparsity achieved in %, {name}",
            markdown.sparsity(results, **panel.point),
        )
        report.add(
            f"bytes-{panel.key}",
            f"Megabytes moved / with one-bit masks (saving without masks), {name}",
            markdown.traffic(results, **panel.point),
        )
    _figures(report, results)
    return report


def _figures(report: Report, results: Results) -> None:
    sparsities = results.axis("final_sparsity")
    shown = 0.95 if 0.95 in sparsities else sparsities[-1]
    if not results.lines:
        return
    report.figures["accuracy-sparsity"] = figures.accuracy_sparsity(results)
    report.figures["accuracy-rounds"] = figures.accuracy_over(results, shown, "rounds")
    report.figures["accuracy-bytes"] = figures.accuracy_over(results, shown, "bytes")
    both = ("fedsparsify-global", "fedsparsify-local")
    rows = [row for row in both if row in results.rows]
    if strips := figures.layers(results, rows, shown):
        report.figures["layers"] = strips

"""Every promise of the papers beside its measured figure: one table.

Claims: of arXiv 2204.12430, a tenth of the size at the accuracy of dense and of pruned
models, files 15 x smaller, inference 4 x faster, 3 x less communication, cheaper
encrypted operations; of arXiv 2208.11669, less success of membership inference.

    python -m experiments.run --render

Nothing is measured here. Accuracies are from lines of ``experiments/results``, all else
from ``benchmarks/results-*.json``, whose scripts say how; both name their machines.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.lib import markdown
from experiments.lib.reporting import Report
from experiments.lib.results import RESULTS, Results, of_attack
from experiments.tables import fashion_mnist, fedsparsify_plus, membership
from fedsparsify_jax.report.results import Difference

NAME = "promises"
BENCHMARKS = RESULTS.parents[1] / "benchmarks"
SPARSITIES = (0.9, 0.95, 0.99)
_GLOBAL = "fedsparsify-global"


class Promise(NamedTuple):
    """A row of the table; ``cell`` gives its text at a sparsity."""

    promised: str
    measured: str  # what the figures are
    cell: Callable[[float], str]


def report(preset: str = "paper", root: Path = RESULTS) -> Report:
    """Returns the table of all promises."""
    rows, above = [], ""
    for each in (*_accuracy(preset, root), *_deployed(), *_private(preset, root)):
        promised = "" if each.promised == above else each.promised
        above = each.promised
        rows.append([promised, each.measured, *map(each.cell, SPARSITIES)])
    head = ["promised", "measured", *map(markdown.percent, SPARSITIES)]
    content = Report()
    content.add("all", "Promises and figures", markdown.table(head, rows))
    return content


def _points(difference: Difference | None) -> str:
    return markdown.EMPTY if difference is None else difference.text()


def _accuracy(preset: str, root: Path) -> list[Promise]:
    plain = Results(fashion_mnist.TABLE, preset, root)
    equal = Results(fedsparsify_plus.TABLE, preset, root)
    control, dense = fedsparsify_plus.CONTROL, fedsparsify_plus.DENSE
    return [
        Promise(
            "as accurate as dense models at less than a tenth of the size",
            f"accuracy, Global minus FedAvg, in points: {how}, {where}",
            _gap(results, row, of, partition),
        )
        for partition, where in (("iid", "IID"), ("label-shards", "two classes"))
        for how, results, row, of in (
            ("plain SGD", plain, _GLOBAL, "fedavg"),
            ("both with momentum and average", equal, control, dense),
        )
    ]


def _gap(results: Results, row: str, of: str, partition: str) -> Callable[..., str]:
    def cell(sparsity: float) -> str:
        place = {"partition": partition, "final_sparsity": sparsity}
        return _points(results.difference(row, "last_5", of=of, **place))

    return cell


def _private(preset: str, root: Path) -> list[Promise]:
    results = Results(membership.TABLE, preset, root)
    auc = of_attack("lira-online")
    return [
        Promise(
            "less success of membership inference",
            f"AUC of LiRA, Global minus the dense model {how}, in points",
            lambda sparsity, gap=gap: _points(gap(_GLOBAL, final_sparsity=sparsity)),
        )
        for how, gap in (
            ("after as many rounds", membership.equal_rounds(results, auc)),
            ("stopped as accurate", membership.equal_accuracy(results, auc)),
        )
    ]


def benchmark(name: str) -> Any:
    """Returns the committed result of a benchmark."""
    return json.loads((BENCHMARKS / f"results-{name}.json").read_text("utf-8"))


def _times(number: float) -> str:
    return f"{number:.2f} x" if number < 10 else f"{number:.1f} x"


def _deployed() -> list[Promise]:
    return [*_bytes(), *_time(), *_encrypted()]


def _bytes() -> list[Promise]:
    sizes, runs = benchmark("wire")["sizes"], benchmark("wire_runs")["runs"]
    traffic = Results(fashion_mnist.TABLE, "paper")

    def file(form: str) -> Callable[[float], str]:
        return lambda s: _times(sizes[str(s)]["dense"] / sizes[str(s)][form])

    def formula(sparsity: float) -> str:
        place = {"partition": "iid", "final_sparsity": sparsity}
        sent = [
            traffic.spread(row, "bytes", **at)
            for row, at in (("fedavg", {"partition": "iid"}), (_GLOBAL, place))
        ]
        return _times(sent[0].mean / sent[1].mean) if all(sent) else markdown.EMPTY

    def encoded(form: str) -> Callable[[float], str]:
        savings = [run["saving"] for run in runs[form]]
        return lambda s: (
            _times(statistics.fmean(savings)) if s == 0.95 else markdown.EMPTY
        )

    less = "3 x less communication"
    return [
        Promise(
            "files 15 x smaller", "file or message of 1.6 M weights", file("float32")
        ),
        Promise("files 15 x smaller", "the file with zstd", file("float32, zstd")),
        Promise(less, "non-zeros x 32 bit, up and down, T = 200", formula),
        Promise(less, "encoded messages, masks and all", encoded("float32")),
        Promise(less, "encoded messages with zstd", encoded("float32, zstd")),
        Promise(less, "encoded messages, values in float16", encoded("float16")),
    ]


def _time() -> list[Promise]:
    runs, cases = benchmark("sparse_runs"), benchmark("inference")["cases"]

    def training(sparsity: float) -> str:
        run = runs.get(f"10 clients, {sparsity}")
        return _times(1 / run["ratio"]) if run else markdown.EMPTY

    def inference(model: str, deepsparse: bool) -> Callable[[float], str]:
        def cell(sparsity: float) -> str:
            (case,) = (
                case
                for case in cases
                if (case["model"], case["sparsity"]) == (model, sparsity)
                and (case["batch"], case["threads"]) == (128, 1)
            )
            faster = case["times faster"]
            here = [faster[e] for e in faster if deepsparse or "deepsparse" not in e]
            return _times(max(here))

        return cell

    faster = "inference 4 x faster"
    return [
        Promise("cheaper training", "whole runs of 10 clients, mlp", training),
        Promise(faster, "cnn, batch of 128, best engine", inference("cnn", True)),
        Promise(
            faster,
            "the same without DeepSparse, which is no longer kept",
            inference("cnn", False),
        ),
        Promise(faster, "mlp, batch of 128, best engine", inference("mlp", True)),
    ]


def _encrypted() -> list[Promise]:
    models = benchmark("encryption")["models"]

    def less(model: str, what: str) -> Callable[[float], str]:
        def cell(sparsity: float) -> str:
            case = models[model]["sparsities"][str(sparsity)]
            if what == "bytes":
                return _times(case["fewer_bytes"])
            return _times(case["less_time"][what])

        return cell

    cheaper = "cheaper operations under encryption"
    return [
        Promise(
            cheaper, "bytes of CKKS ciphertexts, 118,282 weights", less("mlp", "bytes")
        ),
        Promise(cheaper, "bytes, 1.6 M weights", less("cnn", "bytes")),
        Promise(cheaper, "time to encrypt, 1.6 M weights", less("cnn", "encrypt")),
        Promise(
            cheaper, "time to add on the server, 1.6 M weights", less("cnn", "add")
        ),
    ]

"""Compressed uploads: accuracy against the bytes that are sent, FedAvg and Global.

Claim: none of the paper's. A sparse model has little left to compress: this table says
what few or coarse numbers in the uploads save on top of the purge, and what they cost.
Downloads are models as they are, in the row of 16 bits in 16 bits.

    python -m experiments.run upload_compression

Bytes are counted and not encoded: a sweep runs its seeds as one program, which does not
report messages as ``train --measure-bytes`` does. Counted are numbers, the positions of
those that top-k sends, and scales; `sent` has the formula, and
``tests/experiments/test_upload_compression.py`` holds it against encoded messages. Left
out are headers (about 1 KB a message) and positions of a mask's changes in downloads.

Expected: 72 runs, 30 minutes of 2 free cores.
"""

from collections.abc import Callable
from typing import Any

from experiments.lib import markdown
from experiments.lib.collecting import Line
from experiments.lib.reporting import Report
from experiments.lib.results import Measure, Results
from experiments.lib.table import Preset, Row, Table
from fedsparsify_jax import text_table

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("32 bit", {}),
    "float16": ("16 bit, both ways", {"wire_values": "float16"}),
    "topk": ("top 10 %", {"upload_compression": "topk", "topk_fraction": 0.1}),
    "topk-plain": (
        "top 10 %, no feedback",
        {
            "upload_compression": "topk",
            "topk_fraction": 0.1,
            "error_feedback": "off",
        },
    ),
    "int8": ("int8", {"upload_compression": "int8"}),
    "int4": ("int4", {"upload_compression": "int4"}),
}
"""Ways to send a model: end of a row's key, what readers see, options of ``train``."""
METHODS = {
    "fedavg": ("FedAvg", {"algorithm": "fedavg"}),
    "global": ("Global", {"algorithm": "fedsparsify-global"}),
}

TABLE = Table(
    name="upload_compression",
    title="FashionMNIST, 100 clients at 10 %: compressed uploads",
    rows=tuple(
        Row(f"{method}-{way}", f"{label}, {text}", {**algorithm, **options})
        for method, (label, algorithm) in METHODS.items()
        for way, (text, options) in WAYS.items()
    ),
    options={"dataset": "fashion_mnist", "num_clients": 100, "participation": 0.1},
    axes={
        "partition": ("iid", "label-shards"),
        "final_sparsity": (0.95,),
        "seed": (0, 1, 2),
    },
    presets={
        "smoke": Preset(
            "a minute",
            {"rounds": 3, "local_epochs": 1, "partition": ("iid",), "seed": (0,)},
            rows=("fedavg-none", "global-topk", "global-int4"),
        ),
        "short": Preset("3 minutes on 2 cores", {"rounds": 40, "seed": (0,)}),
        "paper": Preset("30 minutes on 2 cores"),
    },
    reference="global-none",
)


def sent_up(line: Line) -> float:
    """Returns the bytes of a run's uploads, by what is sent; see `sent`."""
    return line["bytes_up"] * _narrowing(line)


def sent(line: Line) -> float:
    """Returns the bytes of a run's messages, both ways.

    Numbers x 32 bit, or 16 where models travel so; of uploads by ``topk`` the entries
    that are sent and their positions, of ``int8`` and ``int4`` 8 or 4 bits a kept entry
    and a scale a layer, as `metrics.communication` counts them.
    """
    return line["bytes"] * _narrowing(line)


def _narrowing(line: Line) -> float:
    options = line["options"]
    if options.get("wire_values", "float32") == "float32":
        return 1.0
    assert options.get("upload_compression", "none") == "none"
    return 0.5


def _saving(line: Line) -> float:
    return line["bytes_dense"] / sent(line)


def _columns(results: Results) -> dict[str, Callable[..., str]]:
    """Returns the text of each column at a row and a point."""

    def mean(measure: Measure, unit: str, scale: float = 1.0) -> Callable[..., str]:
        def cell(row: str, **point: Any) -> str:
            spread = results.spread(row, measure, **point)
            return unit.format(scale * spread.mean) if spread else markdown.EMPTY

        return cell

    return {
        "accuracy in %": markdown.value(results, "last_5"),
        "minus 32 bit": _against_plain(results),
        "MB up": mean(sent_up, "{:,.0f}", 1e-6),
        "MB both ways": mean(sent, "{:,.0f}", 1e-6),
        "times fewer than dense": mean(_saving, "{:.2f} x"),
    }


def _against_plain(results: Results) -> Callable[..., str]:
    """Returns cells of rows minus the same method's models in 32 bit."""

    def cell(row: str, **point: Any) -> str:
        plain = f"{row.partition('-')[0]}-none"
        if row == plain or plain not in results.rows:
            return ""
        gap = results.difference(row, "last_5", of=plain, **point)
        return markdown.EMPTY if gap is None else gap.text(results.scale)

    return cell


def report(results: Results) -> Report:
    """Returns accuracy beside bytes, a method and a way of sending a line."""
    report, columns = Report(), _columns(results)
    for panel in results.panels:
        lines = [
            [
                results.label(row),
                *(cell(row, **panel.point) for cell in columns.values()),
            ]
            for row in results.rows
        ]
        report.add(
            f"bytes-{panel.key}",
            f"Accuracy (mean of the last five rounds) against bytes, {panel.title}",
            text_table.markdown(["method", *columns], lines),
        )
    return report

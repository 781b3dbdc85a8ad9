"""The table of `inference.py`'s results for benchmarks/README.md.

    python benchmarks/inference_table.py       # prints it

Multiply-adds are counted from the kept weights of each layer and the places at which a
layer is applied; divided by the measured milliseconds they say how much of the
arithmetic each side gets done in a second.
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results-inference.json")
PLACES = {
    **dict.fromkeys(("Conv_0", "Conv_1"), 28 * 28),
    **dict.fromkeys(("Conv_2", "Conv_3"), 14 * 14),
    **dict.fromkeys(("Conv_4", "Conv_5"), 7 * 7),
}
HEAD = (
    "| model, sparsity | threads | batch | best dense engine | ms | G/s "
    "| fastest other | ms | times faster | numba G/s |\n" + "|---" * 10 + "|"
)


def millions(case: dict[str, Any]) -> tuple[float, float]:
    """Millions of multiply-adds an example: of all weights, and of what is left."""
    kept, full = 0, 0
    for name, (left, size) in case["layers"].items():
        kept += left * PLACES.get(name, 1)
        full += size * PLACES.get(name, 1)
    return full / 1e6, kept / 1e6


def rate(case: dict[str, Any], count: float, name: str) -> str:
    """Thousands of millions of multiply-adds a second."""
    if name not in case["milliseconds"]:
        return "-"
    return f"{count * case['batch'] / case['milliseconds'][name]:.1f}"


def row(case: dict[str, Any]) -> str:
    """One case: the best dense engine against the fastest of all others."""
    times, dense = case["milliseconds"], case["best dense"]
    full, kept = millions(case)
    others = {name: t for name, t in times.items() if not dense_one(name)}
    best = min(others, key=lambda name: others[name])
    fields = [
        f"{case['model']}, {case['sparsity']:.0%}",
        str(case["threads"]),
        str(case["batch"]),
        dense.removesuffix(", full"),
        f"{times[dense]:.4f}",
        rate(case, full, dense),
        best.removesuffix(", full"),
        f"{others[best]:.4f}",
        f"{times[dense] / others[best]:.2f}",
        rate(case, kept, "numba, full"),
    ]
    return f"| {' | '.join(fields)} |"


def dense_one(name: str) -> bool:
    """Whether a contestant computes the full network with its zeros."""
    engine, form = name.split(", ")
    return form == "full" and engine in ("onnxruntime", "openvino", "litert", "xla")


def models(results: dict[str, Any]) -> str:
    """A line for each model: accuracy and multiply-adds."""
    lines = {}
    for case in results["cases"]:
        full, kept = millions(case)
        lines[case["model"], case["sparsity"]] = (
            f"| {case['model']}, {case['sparsity']:.0%} | {case['accuracy']:.1%} "
            f"| {full:.3f} | {kept:.3f} | {full / kept:.1f} |"
        )
    head = "| model, sparsity | accuracy | M multiply-adds | left | times fewer |\n"
    return head + "|---" * 5 + "|\n" + "\n".join(lines[key] for key in order(lines))


def order(keys: Any) -> list[Any]:
    """The mlp first, then by sparsity."""
    return sorted(keys, key=lambda key: (key[0] != "mlp", *key[1:]))


def table(results: dict[str, Any]) -> str:
    """Both tables, models first."""
    rows = {
        (case["model"], case["sparsity"], case["threads"], case["batch"]): row(case)
        for case in results["cases"]
    }
    measured = HEAD + "\n" + "\n".join(rows[key] for key in order(rows))
    return f"{models(results)}\n\n{measured}"


if __name__ == "__main__":
    print(table(json.loads(RESULTS.read_text())))

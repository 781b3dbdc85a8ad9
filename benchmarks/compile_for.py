"""The Global round of every model: compiled for TPUs, lowered for CUDA, without one.

Claim: what travels between chips in a round is the sums of one model. No client's model
is gathered anywhere, whatever the number of chips, and the round fits their memory.

TPU programs are made by Google's own compiler, libtpu, which runs on any x86 Linux and
needs no TPU; CUDA's needs a GPU, so there the round is lowered to StableHLO only. Each
case is a process (`compile_case.py`) and is written when it ends; a case that the
results have already is not run again, so an interrupted command is started once more.

    python3.11 -m venv /tmp/tpu
    /tmp/tpu/bin/pip install -c requirements.txt . libtpu
    /tmp/tpu/bin/python benchmarks/compile_for.py --models mlp,cnn --targets v5e:2x2
    python benchmarks/compile_for.py --table    # of the README

(``libtpu`` is best the one that ``jax[tpu]`` of that version names.) Clients: four on
every chip, one of brain_age_cnn, with the examples, batches and epochs of the paper.
Targets are ``cuda``, ``rocm`` or a topology. Compiling takes seconds for the mlp,
minutes for convolutions.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import provenance, put_table

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results-compile_for.json"
TARGETS = ("v5e:2x2", "v5e:16x16", "v6e:4x4", "cuda")
MODELS = (
    "mlp",
    "cnn",
    "resnet20",
    "resnet56",
    "vgg16_bn",
    "brain_age_cnn",
    "lstm",
    "resnet18_gn",
    "vit_tiny",
    "transformer",
)
HEAD = (
    "| model | target | chips | MB a chip | arguments | between | all-reduce bytes "
    "| of a model's | other collectives | in loops | lower s | compile s |\n"
    "|---|---|" + "--:|" * 10
)


def run_case(model: str, target: str, limit: float) -> dict[str, Any]:
    """The result of one case, or ``{"failed": why}``."""
    command = [sys.executable, str(HERE / "compile_case.py"), model, target]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        return {"failed": lines[-1][:300]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | provenance()


def row(name: str, case: dict[str, Any]) -> str:
    """A line of the table of compiled rounds."""
    memory, model = case["memory"], case["model_bytes"]
    found = dict(case["collectives"])
    reduced = found.pop("all-reduce", {"bytes": 0, "in_loops": 0})
    others = ", ".join(f"{one['number']} {kind}" for kind, one in found.items())
    loops = sum(one["in_loops"] for one in (reduced, *found.values()))
    cells = [
        *name.split(),
        case["devices"],
        f"{memory['together'] / 2**20:,.1f}",
        f"{memory['arguments'] / 2**20:,.1f}",
        f"{memory['temporary'] / 2**20:,.1f}",
        f"{reduced['bytes']:,}",
        f"{reduced['bytes'] / model:.4f} x",
        others or "none",
        loops,
        f"{case['lower_s']:.1f}",
        f"{case['compile_s']:.1f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def lowered_row(name: str, case: dict[str, Any]) -> str:
    """A line of the table of rounds that were lowered only."""
    kinds = ("lines", "convolutions", "products", "custom_calls")
    cells = [*name.split(), *(f"{case[kind]:,}" for kind in kinds)]
    return "| " + " | ".join([*cells, f"{case['lower_s']:.1f}"]) + " |"


def table(results: dict[str, Any]) -> str:
    """The tables of the README, and what was not run."""
    cases = {k: v for k, v in results["cases"].items() if "failed" not in v}
    compiled = [row(k, v) for k, v in cases.items() if "memory" in v]
    lowered = [lowered_row(k, v) for k, v in cases.items() if "lines" in v]
    wanted = [f"{model} {target}" for target in TARGETS for model in MODELS]
    failed = [
        f"{k} ({v['failed']})" for k, v in results["cases"].items() if k not in cases
    ]
    left = [name for name in wanted if name not in results["cases"]]
    head = "| model | target | lines | convolutions | products | custom calls | s |"
    parts = [
        "\n".join([HEAD, *compiled]),
        "\n".join([head, "|---|---|--:|--:|--:|--:|--:|", *lowered]),
        f"Failed: {'; '.join(failed) or 'none'}.",
        f"Not run: {', '.join(left) or 'none'}.",
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--limit", type=float, default=1800, help="seconds a case")
    parser.add_argument(
        "--table", action="store_true", help="print them, and put them into README.md"
    )
    arguments = parser.parse_args()
    out, results = arguments.out, {"cases": {}}
    if out.exists():
        results = json.loads(out.read_text())
    if arguments.table:
        print(table(results))
        put_table("compile_for", table(results))
        return
    for target in arguments.targets.split(","):
        for model in arguments.models.split(","):
            name = f"{model} {target}"
            if "failed" not in results["cases"].get(name, {"failed": ""}):
                continue
            print(name, "...", flush=True)
            results["cases"][name] = run_case(model, target, arguments.limit)
            # Whole or not at all: an interrupted command must find what it wrote.
            partial = out.with_suffix(".partial")
            partial.write_text(json.dumps(results, indent=1) + "\n")
            partial.replace(out)
    print(table(results))


if __name__ == "__main__":
    main()

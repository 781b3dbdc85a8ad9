"""Whole runs with every message encoded: how much smaller than dense float32 they are.

Claim: FedSparsify-Global on FashionMNIST to 95 % in 200 rounds moves at least 3.40 x
fewer bytes, up and down, positions and headers counted, than the same rounds in dense
float32; at least 6.5 x fewer with float16 values, whose accuracy is within 0.3 points
of float32's on three seeds.

    python benchmarks/wire_runs.py --out FILE.json
    python benchmarks/wire_runs.py --clients 100 --participation 0.1 --seeds 3

A run with 100 clients at 10 % takes half a minute on 2 cores, one with 10 clients four.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, write_result

WAYS = {
    "float32": [],
    "float32, zstd": ["--wire-compression", "zstd"],
    "float16": ["--wire-values", "float16"],
    "float16, zstd": ["--wire-values", "float16", "--wire-compression", "zstd"],
}


def run(more: list[str]) -> dict[str, Any]:
    """Accuracy and savings of one run."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "fedsparsify_jax", "train", "--measure-bytes"]
        command += ["--dataset", "fashion_mnist", "--final-sparsity", "0.95", *more]
        command += ["--out", directory + "/run"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        summary = json.loads((Path(directory) / "run" / "summary.json").read_text())
    return {
        "accuracy": summary["test_accuracy"],
        "saving": summary["message_saving"],
        "formula": summary["communication_saving"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--participation", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    more = ["--rounds", str(options.rounds), "--num-clients", str(options.clients)]
    more += ["--participation", str(options.participation)]
    results: dict[str, Any] = {"options": more, "runs": {}}
    for way in options.ways:
        seeds = [["--seed", str(seed)] for seed in range(options.seeds)]
        runs = [run([*more, *WAYS[way], *seed]) for seed in seeds]
        results["runs"][way] = runs
        mean = {name: statistics.fmean(r[name] for r in runs) for name in runs[0]}
        print(
            f"{way:14} {mean['saving']:.3f} x encoded, {mean['formula']:.3f} x by the "
            f"formula, accuracy {100 * mean['accuracy']:.2f} % of "
            f"{[round(100 * r['accuracy'], 2) for r in runs]}",
            flush=True,
        )
        if options.out:
            write_result(options.out, results)


if __name__ == "__main__":
    main()

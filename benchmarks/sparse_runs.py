"""Whole runs of the command line, in full and on compact forms, in turns.

Claim: on FashionMNIST with 10 clients and 200 rounds, a run with ``--sparse-training
auto`` takes at most 0.85 x (0.75 x) the wall time of one with ``off`` at 95 % (99 %)
sparsity, from the start of the command to its summary, compilations included; its
accuracy is the same within the rounding of sums. For 100 clients at 10 %, and for a cnn
that is pruned by channels, the figures are reported without a goal.

    python benchmarks/sparse_runs.py
    python benchmarks/sparse_runs.py --out FILE.json --rounds 200 --repeats 3
    python benchmarks/sparse_runs.py --evaluate-every 10 --only 10 --sparsities 0.99
    python benchmarks/sparse_runs.py --only cnn --rounds 20 --sparsities 0.9

Run nothing else meanwhile. An hour on 2 cores with the defaults.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, write_result

FEDERATIONS = {"10": ["--num-clients", "10"], "100": ["--participation", "0.1"]}
FEDERATIONS["100"] += ["--num-clients", "100"]
# A network of convolutions, whose layers become smaller by whole channels alone.
FEDERATIONS["cnn"] = ["--model", "cnn", "--train-subset", "1000", "--num-clients", "10"]
FEDERATIONS["cnn"] += ["--local-epochs", "1", "--pattern", "channel"]
GOALS = {("10", 0.95): 0.85, ("10", 0.99): 0.75}


def run(federation: str, sparsity: float, form: str, more: list[str]) -> dict[str, Any]:
    """Seconds, accuracy and forms of one run, in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "fedsparsify_jax", "train", *more]
        command += ["--dataset", "fashion_mnist", *FEDERATIONS[federation]]
        command += ["--final-sparsity", str(sparsity), "--sparse-training", form]
        command += ["--out", directory + "/run", "--compilation-cache", "off"]
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        summary = json.loads((Path(directory) / "run" / "summary.json").read_text())
    return {
        "seconds": seconds,
        "accuracy": summary["test_accuracy"],
        "forms": summary.get("sparse_training"),
    }


def compare(federation: str, sparsity: float, more: list[str], repeats: int) -> Any:
    """Both kinds of run in turns, and their ratio."""
    runs: dict[str, list[dict[str, Any]]] = {"off": [], "auto": []}
    for _ in range(repeats):
        for form, results in runs.items():
            results.append(run(federation, sparsity, form, more))
    medians = {
        form: statistics.median(result["seconds"] for result in results)
        for form, results in runs.items()
    }
    ratio = medians["auto"] / medians["off"]
    goal = GOALS.get((federation, sparsity))
    print(
        f"{federation} clients, {sparsity:.0%}: {medians['off']:.1f} s off, "
        f"{medians['auto']:.1f} s auto, {ratio:.3f} x"
        + (f" (goal <= {goal})" if goal else "")
        + f"; accuracy {runs['off'][0]['accuracy']:.4f}, "
        f"{runs['auto'][0]['accuracy']:.4f}; {runs['auto'][0]['forms']}",
        flush=True,
    )
    return {"runs": runs, "medians": medians, "ratio": ratio, "goal": goal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3, help="of every run")
    parser.add_argument("--evaluate-every", type=int, default=1)
    parser.add_argument("--only", choices=FEDERATIONS, help="one of the federations")
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.95, 0.99])
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    more = ["--rounds", str(options.rounds)]
    more += ["--evaluate-every", str(options.evaluate_every)]
    chosen = [options.only] if options.only else ["10", "100"]
    results: dict[str, Any] = {"rounds": options.rounds}
    for federation, sparsity in itertools.product(chosen, options.sparsities):
        name = f"{federation} clients, {sparsity}"
        results[name] = compare(federation, sparsity, more, options.repeats)
        if options.out:
            write_result(options.out, results)


if __name__ == "__main__":
    main()

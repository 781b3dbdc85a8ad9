"""Inference time of sparse models: engines on the full and on the compacted network.

Claim: at 95 % sparsity at least one engine that a user can install answers 4 x faster
than the best engine on the dense network, at the same batch and threads.

Work: the mlp and the cnn of `inference_models.py`, trained on FashionMNIST and kept in
the cache of the benchmarks. All take raw pixels and give logits, which are compared
with the library's own (1e-4 of their standard deviation) before anything is timed;
what differs or cannot run is printed with the reason and not timed. Contestants take
turns; medians of single calls. Engines run in environments of their own:

* onnxruntime, OpenVINO (fp32), LiteRT (XNNPACK, files from `inference_tflite.py`),
  DeepSparse 1.8.0 (1.9.0 refuses to install; deprecated): full and compacted network;
* XLA: both networks; the trainer's index lists (mlp);
* SciPy CSR (mlp), both networks;
* numba: the kernels of `inference_numba.py`, which skip what is pruned.

The best dense engine is the fastest of onnxruntime, OpenVINO, LiteRT and XLA on the
full network of the same sparsity. Every process is kept to as many cores as it may
have threads, and each engine that has an option for threads is told.

    python benchmarks/inference.py --out FILE.json
    python benchmarks/inference.py --out FILE.json --minutes 4   # goes on where it was
    python benchmarks/inference.py --smoke     # a small model, one sparsity, few calls

Run nothing else meanwhile.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common import ROOT, isolated, write_result
from inference_models import about, folder_of, trained

ENGINES = [
    "numpy==2.4.6",
    "scipy==1.17.1",
    "onnxruntime==1.32.0",
    "openvino==2026.4.1",
    "ai-edge-litert==2.3.0",
    "numba==0.68.1",
]
DENSE = ["onnxruntime, full", "openvino, full", "litert, full", "xla, full"]
COMPACT = [name.replace("full", "compact") for name in DENSE]
DEEPSPARSE = ["deepsparse, full", "deepsparse, compact"]
LISTS = [
    "scipy csr, full",
    "scipy csr, compact",
    "xla lists, full",
]
NUMBA = ["numba, full"]
SPARSITIES, BATCHES, THREADS = (0.0, 0.8, 0.9, 0.95, 0.99), (1, 32, 128), (1, 2)
GOAL = 4.0


class Worker:
    """A process with engines, which answers one request after the other."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self.process = process

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request; a complaint if the process is gone."""
        assert self.process.stdin and self.process.stdout
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"complaint": "the process ended"}


@contextmanager
def worker(python: Path | str, threads: int) -> Iterator[Worker]:
    """A worker while the context lasts."""
    script = str(Path(__file__).with_name("inference_worker.py"))
    process = subprocess.Popen(
        [str(python), script, str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    )
    try:
        yield Worker(process)
    finally:
        process.kill()
        process.wait()


def environments() -> tuple[dict[str, Path | str], dict[str, str]]:
    """The Python of each engine, and why an engine is missing."""
    pythons: dict[str, Path | str] = {
        "xla": sys.executable,
        "xla lists": sys.executable,
    }
    missing = {}
    try:
        pythons["deepsparse"] = isolated("deepsparse", ["deepsparse==1.8.0"])
    except subprocess.CalledProcessError as error:
        missing["deepsparse"] = f"pip ended with {error.returncode}"
        print("DeepSparse does not install here", file=sys.stderr)
    others = isolated("inference", ENGINES)
    for engine in ("onnxruntime", "openvino", "litert", "scipy csr", "numba"):
        pythons[engine] = others
    return pythons, missing


def measure(
    names: list[str],
    workers: dict[str, Worker],
    folder: Path,
    options: argparse.Namespace,
    case: dict[str, Any],
) -> dict[str, Any]:
    """Medians of one model at one batch and number of threads."""
    calls: dict[str, list[float]] = {name: [] for name in names}
    complaints, apart = {}, {}
    for _ in range(options.turns):
        for name in [n for n in names if n not in complaints]:
            side = workers[name.split(", ")[0]]
            answer = side.ask(
                name=name,
                folder=str(folder),
                seconds=options.seconds,
                threads=case["threads"],
                batch=case["batch"],
            )
            if "complaint" in answer:
                complaints[name] = answer["complaint"]
                calls[name].clear()
                continue
            calls[name] += answer["seconds"]
            apart[name] = answer["apart"]
    milliseconds = {n: 1e3 * statistics.median(v) for n, v in calls.items() if v}
    dense = {n: milliseconds[n] for n in DENSE if n in milliseconds}
    best = min(dense, key=lambda name: dense[name])
    faster = {name: dense[best] / value for name, value in milliseconds.items()}
    return {
        **case,
        "best dense": best,
        "milliseconds": milliseconds,
        "times faster": faster,
        "calls": {name: len(values) for name, values in calls.items()},
        "apart": apart,
        "not timed": complaints,
    }


def show(title: str, result: dict[str, Any]) -> None:
    print(f"\n{title}, batch {result['batch']}, threads {result['threads']}")
    print(f"{'contestant':22} {'ms':>9}  times the best dense ({result['best dense']})")
    for name, value in result["milliseconds"].items():
        print(f"{name:22} {value:9.4f}  {result['times faster'][name]:5.2f}")
    for name, reason in result["not timed"].items():
        print(f"{name:22} not timed: {reason}")
    sys.stdout.flush()


def contestants(model: str, engines: Iterable[str]) -> list[str]:
    """Who takes part for a model."""
    names = DENSE + COMPACT + DEEPSPARSE + (LISTS if model == "mlp" else []) + NUMBA
    return [name for name in names if name.split(", ")[0] in engines]


def cases_left(options: argparse.Namespace, done: list[Any]) -> list[dict[str, Any]]:
    """What has not been measured yet, with a worker's life in one piece."""
    keys = ("threads", "model", "sparsity", "batch")
    past = {tuple(case[key] for key in keys) for case in done}
    wanted = itertools.product(
        options.threads, options.models, options.sparsities, options.batches
    )
    return [dict(zip(keys, case, strict=True)) for case in wanted if case not in past]


def run(options: argparse.Namespace, results: dict[str, Any]) -> None:
    """Measures what is left until the time is over, and writes after each case."""
    pythons, results["not installed"] = environments()
    end = time.monotonic() + 60 * options.minutes
    left = cases_left(options, results["cases"])
    for threads, group in itertools.groupby(left, lambda case: case["threads"]):
        with ExitStack() as stack:
            workers = {
                python: stack.enter_context(worker(python, threads))
                for python in set(pythons.values())
            }
            by_engine = {engine: workers[python] for engine, python in pythons.items()}
            for case in group:
                if time.monotonic() > end:
                    return
                model, sparsity = case["model"], case["sparsity"]
                folder = folder_of(model, sparsity, options.dataset)
                names = contestants(model, pythons)
                result = measure(names, by_engine, folder, options, case)
                show(f"{model}, {sparsity:.0%}", result)
                results["cases"].append(result | about(folder))
                if options.out:
                    write_result(options.out, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.05, help="a turn")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after these")
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn"])
    parser.add_argument("--sparsities", nargs="+", type=float, default=SPARSITIES)
    parser.add_argument("--smoke", action="store_true", help="a test of the script")
    parser.add_argument("--out", type=Path, help="write JSON here, and go on with it")
    options = parser.parse_args()
    options.batches, options.threads = BATCHES, THREADS
    options.dataset = "fashion_mnist"
    if options.smoke:
        options.sparsities, options.batches, options.threads = (0.95,), (1,), (1,)
        options.models, options.turns, options.seconds = ["mlp"], 1, 0.01
        options.dataset = "digits"
    for model in options.models:
        needed = (0.95,) if options.smoke else SPARSITIES
        trained(model, needed, options.dataset)
    results: dict[str, Any] = {"goal": GOAL, "cases": []}
    if options.out and options.out.exists():
        results["cases"] = json.loads(options.out.read_text())["cases"]
    run(options, results)


if __name__ == "__main__":
    main()

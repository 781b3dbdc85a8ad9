"""Inference time of sparse models: engines on the full and on the compacted network.

Claim: at 95 % sparsity at least one engine that a user can install answers 4 x faster
than the best engine on the dense network, at the same batch and threads. For the mlp
alone so far: a cnn that is worth timing takes an hour and more to train on two cores.

Work: FedSparsify-Global trains each model at each sparsity, 10 FashionMNIST clients;
mlp 20 rounds of 4 epochs. Runs are kept in the cache of the benchmarks. All take raw
pixels and give logits, which are compared with the library's own (1e-4) before anything
is timed; what differs or cannot run is printed with the reason and not timed.
Contestants take turns; medians of single calls. Engines run in environments of their
own:

* onnxruntime, OpenVINO (fp32), LiteRT (XNNPACK, files from `inference_tflite.py`),
  DeepSparse 1.8.0 (1.9.0 refuses to install; deprecated): full and compacted network;
* SciPy CSR (mlp; one thread always), XLA: both networks; XLA index lists (mlp).

The best dense engine is the fastest of onnxruntime, OpenVINO, LiteRT and XLA on the
full network. Threads are set by each engine's option; XLA has none, so its process is
kept to as many cores.

    python benchmarks/inference.py --out FILE.json
    python benchmarks/inference.py --smoke     # small models, one sparsity, few calls

Run nothing else meanwhile.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import CACHE, ROOT, isolated, write_result

from fedsparsify_jax import data, deploy
from fedsparsify_jax.deploy.graph import nodes
from fedsparsify_jax.deploy.running import of_saved
from fedsparsify_jax.deploy.saved import compacted, graph_of

ENGINES = [
    "numpy==2.4.6",
    "scipy==1.17.1",
    "onnxruntime==1.32.0",
    "openvino==2026.4.1",
    "ai-edge-litert==2.3.0",
]
DENSE = ["onnxruntime, full", "openvino, full", "litert, full", "xla, full"]
COMPACT = [name.replace("full", "compact") for name in DENSE]
OTHER = ["deepsparse, full", "deepsparse, compact"]
LISTS = ["scipy csr, full", "scipy csr, compact", "xla lists, full"]
TRAINED = {
    "mlp": ["--rounds", "20", "--local-epochs", "4"],
}
GOAL = 4.0


def trained(model: str, sparsity: float, dataset: str) -> Path:
    """The files of a trained model, made once."""
    folder = CACHE / "inference" / f"{dataset}-{model}-{sparsity}"
    if (folder / "expected.npy").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f"training {model} to {sparsity:.0%} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "fedsparsify_jax", "train"]
    command += ["--dataset", dataset, "--model", model, "--num-clients", "10"]
    command += [*TRAINED[model], "--final-sparsity", str(sparsity)]
    command += ["--out", str(folder / "run")]
    if not (folder / "run" / "summary.json").exists():
        shutil.rmtree(folder / "run", ignore_errors=True)  # of a run that was killed
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    export = [sys.executable, "-m", "fedsparsify_jax", "export", str(folder / "run")]
    full = folder / "full.safetensors"
    subprocess.run(
        [*export, "-o", str(full)], check=True, stdout=subprocess.DEVNULL, cwd=ROOT
    )
    saved = deploy.load(full)
    for form, one in (("full", saved), ("compact", compacted(saved))):
        deploy.save(folder / f"{form}.safetensors", one)
        deploy.save(folder / f"{form}.onnx", one, dense=True)
        graph = graph_of(one)
        (folder / f"{form}.json").write_text(json.dumps(nodes.describe(graph)))
        arrays = {
            f"{number}.{name}": np.asarray(array)
            for number, node in enumerate(graph)
            for name, array in node.arrays.items()
        }
        np.savez(folder / f"{form}.npz", **arrays)
    x = np.asarray(data.load(dataset).test.x[:128])
    np.save(folder / "x.npy", x)
    np.save(folder / "expected.npy", of_saved(saved).run(x))
    return folder


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
def worker(python: Path | str, threads: int, pinned: bool) -> Iterator[Worker]:
    """A worker while the context lasts."""
    script = str(Path(__file__).with_name("inference_worker.py"))
    mode = "pinned" if pinned else "free"
    process = subprocess.Popen(
        [str(python), script, str(threads), mode],
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


def environments() -> dict[str, Path | str]:
    """The Python of each engine; DeepSparse needs older packages."""
    pythons: dict[str, Path | str] = {
        "xla": sys.executable,
        "xla lists": sys.executable,
    }
    try:
        pythons["deepsparse"] = isolated("deepsparse", ["deepsparse==1.8.0"])
    except subprocess.CalledProcessError:
        print("DeepSparse does not install here", file=sys.stderr)
    others = isolated("inference", ENGINES)
    for engine in ("onnxruntime", "openvino", "litert", "scipy csr"):
        pythons[engine] = others
    return pythons


def measure(
    names: list[str],
    workers: dict[str, Worker],
    folder: Path,
    options: argparse.Namespace,
    **case: int,
) -> dict[str, Any]:
    """Medians of one model at one batch and number of threads."""
    calls: dict[str, list[float]] = {name: [] for name in names}
    complaints, apart = {}, {}
    for _ in range(options.turns):
        for name in [n for n in names if n not in complaints]:
            side = workers[name.split(", ")[0]]
            answer = side.ask(
                name=name, folder=str(folder), seconds=options.seconds, **case
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="a turn")
    parser.add_argument("--smoke", action="store_true", help="a test of the script")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    options = parser.parse_args()
    sparsities, batches, counts = (0.0, 0.8, 0.9, 0.95, 0.99), (1, 32, 128), (1, 2)
    models, dataset = list(TRAINED), "fashion_mnist"
    if options.smoke:
        sparsities, batches, counts, dataset = (0.95,), (1,), (1,), "digits"
        models, options.turns, options.seconds = ["mlp"], 1, 0.01
    folders = {(m, s): trained(m, s, dataset) for m in models for s in sparsities}
    pythons = environments()
    results: dict[str, Any] = {"goal": GOAL, "cases": []}
    for threads in counts:
        with ExitStack() as stack:
            workers = {
                python: stack.enter_context(
                    worker(python, threads, python == sys.executable)
                )
                for python in set(pythons.values())
            }
            by_engine = {engine: workers[python] for engine, python in pythons.items()}
            for (model, sparsity), folder in folders.items():
                names = DENSE + COMPACT + (LISTS if model == "mlp" else [])
                names = names + (OTHER if "deepsparse" in pythons else [])
                for batch in batches:
                    case = {"batch": batch, "threads": threads}
                    result = measure(names, by_engine, folder, options, **case)
                    show(f"{model}, {sparsity:.0%}", result)
                    about = {"model": model, "sparsity": sparsity}
                    results["cases"].append(about | result)
    if options.out:
        write_result(options.out, results)


if __name__ == "__main__":
    main()

"""Records what a set of command lines computes, and compares it with a later state.

    python tools/same_numbers.py record tools/numbers.json
    python tools/same_numbers.py compare tools/numbers.json

Every command line is a short run in a directory of its own. Of its ``metrics.jsonl``
all columns but the seconds are kept, and a digest of which saved weights are zero.
``compare`` allows floats a relative difference (``--tolerance``, by default 1e-6) and
nothing else any difference. The Python that runs
this script runs the commands, so an installed package can be held against another.
"""

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

_SHORT = "--rounds 6 --local-epochs 2 --devices 1"
_ALGORITHMS = (
    "fedavg",
    "fedprox",
    "fedopt",
    "fedsparsify-global",
    "fedsparsify-local",
    "fedsparsify-plus",
    "random-pruning",
    "one-shot",
    "snip",
    "grasp",
    "synflow",
    "prunefl",
    "feddst",
)
_OTHERS = {
    "global, momentum kept": "--momentum 0.9 --optimizer-state kept",
    "global, two devices": "--devices 2",
    "local, label shards": "--algorithm fedsparsify-local --partition label-shards",
    "global, dirichlet": "--partition dirichlet --alpha 0.3 --participation 0.5",
    "global, every third round": "--evaluate-every 3",
    "global, faults": "--faults dropout=0.2,straggle=0.3:0.5,nan=0.1",
    "local, faults": "--algorithm fedsparsify-local --faults dropout=0.3,nan=0.2",
    "attack, multi-krum": "--attack sign-flip --attackers 0.3 --merge multi-krum",
    "attack, local, masks": (
        "--algorithm fedsparsify-local --attack mask-poisoning --attackers 0.2"
    ),
    "clipped": "--clip-norm 0.5 --momentum 0.9",
    "median": "--merge median",
    "nnz, strict vote": (
        "--algorithm fedsparsify-local --merge nonzero --vote-rule strict"
    ),
    "fine-tuned": "--algorithm fedsparsify-local --fine-tune-epochs 1",
    "moving average": "--server-ema 0.8 --validation-fraction 0.1",
    "disk": "--client-data disk --participation 0.5",
    "disk, snip": "--client-data disk --participation 0.5 --algorithm snip",
    "disk, two devices": "--client-data disk --devices 2 --evaluate-every 2",
    "chunks": "--cohort map --chunk-size 3",
    "compact training": "--sparse-training auto --final-sparsity 0.97 --rounds 12",
    "per layer, kernels": "--scope erk --prunable kernels --schedule cosine",
    "snip, momentum": "--algorithm snip --momentum 0.9 --source cohort",
    "prunefl, kept": "--algorithm prunefl --momentum 0.9 --optimizer-state kept",
    "multiplicative": "--schedule multiplicative --purge-share 0.2",
}
_CNN = "--model cnn --train-subset 60 --num-clients 3 --rounds 2 --local-epochs 1"
_SWEEP = (
    "--algorithm fedavg,fedsparsify-global,fedsparsify-local --final-sparsity 0.8,0.95 "
    "--seeds 2 --rounds 4 --local-epochs 1 --devices 2"
)


def command_lines() -> dict[str, list[str]]:
    """Returns the words of every command line by its name."""
    lines = {
        f"{name}, alone": f"train {_SHORT} --algorithm {name}" for name in _ALGORITHMS
    }
    for name, words in _OTHERS.items():
        lines[name] = f"train {_SHORT} {words}"
    lines["cnn"] = f"train --devices 1 {_CNN}"
    lines["cnn, local, momentum"] = (
        f"train --devices 1 {_CNN} --algorithm fedsparsify-local --momentum 0.9"
    )
    lines["sweep"] = f"sweep {_SWEEP}"
    # The last of a repeated option counts.
    return {name: _last_wins(line.split()) for name, line in lines.items()}


def _last_wins(words: list[str]) -> list[str]:
    options: dict[str, list[str]] = {}
    for word in words[1:]:
        if word.startswith("--"):
            name = word
            options[name] = []
        else:
            options[name].append(word)
    return [
        words[0],
        *(word for name, rest in options.items() for word in (name, *rest)),
    ]


def _zeros(model: Path) -> str:
    """Returns a digest of which weights are zero."""
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for name, weights in sorted(load_file(model).items()):
        digest.update(name.encode() + np.packbits(weights != 0).tobytes())
    return digest.hexdigest()[:16]


def _read(directory: Path) -> dict[str, Any]:
    runs = {}
    for metrics in sorted(directory.rglob("metrics.jsonl")):
        if "checkpoints" in metrics.parts:
            continue
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        for row in rows:
            row.pop("seconds", None)
        run = metrics.parent
        runs[str(run.relative_to(directory))] = {
            "rounds": rows,
            "zeros": _zeros(run / "model" / "model.safetensors"),
        }
    return runs


def play(words: list[str]) -> dict[str, Any]:
    """Runs one command line and returns what it computed, by run directory."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        done = subprocess.run(
            [sys.executable, "-m", "fedsparsify_jax", *words, "--out", str(out)],
            capture_output=True,
            text=True,
            env=os.environ | {"COLUMNS": "200"},
            check=False,
        )
        if done.returncode:
            return {"failed": done.stderr[-2000:]}
        return _read(out)


def differences(old: Any, new: Any, tolerance: float, at: str = "") -> list[str]:
    """Returns the places where two recordings differ by more than is allowed."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = [f"{at}: {key} only on one side" for key in old.keys() ^ new.keys()]
        for key in old.keys() & new.keys():
            lines += differences(old[key], new[key], tolerance, f"{at}/{key}")
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [
            line
            for index, (left, right) in pairs
            for line in differences(left, right, tolerance, f"{at}[{index}]")
        ]
    if isinstance(old, float) and isinstance(new, float):
        same = math.isclose(old, new, rel_tol=tolerance) or (
            math.isnan(old) and math.isnan(new)
        )
        return [] if same else [f"{at}: {old!r} became {new!r}"]
    return [] if old == new else [f"{at}: {old!r} became {new!r}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="part of the lines' names")
    parser.add_argument("--tolerance", type=float, default=1e-6)
    options = parser.parse_args()
    lines = command_lines()
    recorded = json.loads(options.file.read_text()) if options.file.exists() else {}
    bad = 0
    for name, words in lines.items():
        if options.only not in name:
            continue
        start = time.perf_counter()
        result = play(words)
        seconds = time.perf_counter() - start
        if options.mode == "record":
            recorded[name] = {"words": words, "runs": result}
            options.file.write_text(json.dumps(recorded, indent=0) + "\n")
            message = "FAILED " + result["failed"] if "failed" in result else "recorded"
        else:
            lines_of = differences(recorded[name]["runs"], result, options.tolerance)
            bad += bool(lines_of)
            message = "\n    ".join(lines_of[:8]) or "the same"
        print(f"{name}: {message} ({seconds:.0f} s)", flush=True)
    if bad:
        sys.exit(f"{bad} command lines compute something else")


if __name__ == "__main__":
    main()

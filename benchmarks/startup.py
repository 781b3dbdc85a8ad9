"""Time before round 1: a first start against a second, with the compilation cache.

Claim: a second start spends at most 40 % of the first start's time before round 1.

Each start is ``fedsparsify train`` in a process of its own, stopped where its first
round would begin; the time runs from before the process exists. First starts have an
empty cache directory. Imports are part of it, so both are shown.

    python benchmarks/startup.py --out benchmarks/results-startup.json

Run nothing else meanwhile. About three minutes on 2 cores.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, write_result

CASES = {
    "fashion_mnist, mlp": ["--dataset", "fashion_mnist"],
    "digits, mlp": ["--dataset", "digits"],
    "digits, cnn": ["--dataset", "digits", "--model", "cnn"],
}

# Prints the seconds since START when the first round is about to begin, and leaves.
PROBE = """
import os, sys, time
start = float(os.environ["START"])
from fedsparsify_jax.cli import main
print("imported", time.time() - start, flush=True)
from fedsparsify_jax.runner.programs.program import RoundProgram
def stop(self, state, rounds, data):
    self.compile(state, rounds)
    print("ready", time.time() - start, flush=True)
    os._exit(0)
RoundProgram.__call__ = stop
main(sys.argv[1:])
"""


def start(options: list[str], cache: str) -> tuple[float, float]:
    """Seconds until imported, and until round 1 would begin."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable,
            "-c",
            PROBE,
            "train",
            *options,
            "--out",
            f"{out}/run",
        ]
        command += ["--compilation-cache", cache]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"START": str(time.time()), "PYTHONPATH": path}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment
        )
    marks = re.findall(r"(?m)^(imported|ready) (\S+)$", done.stdout)
    said = dict(marks)
    if "ready" not in said:
        raise SystemExit(done.stderr)
    return float(said["imported"]), float(said["ready"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    result = {}
    for case, options in CASES.items():
        firsts, seconds = [], []
        for _ in range(arguments.repeats):
            with tempfile.TemporaryDirectory() as cache:
                firsts.append(start(options, cache))
                seconds.append(start(options, cache))
        medians = [
            statistics.median(ready for _, ready in runs) for runs in (firsts, seconds)
        ]
        imports = statistics.median(imported for imported, _ in firsts + seconds)
        result[case] = {"first": firsts, "second": seconds}
        print(
            f"{case:18} first {medians[0]:.2f} s, second {medians[1]:.2f} s: "
            f"{medians[1] / medians[0]:.0%} (goal <= 40 %); imports {imports:.2f} s"
        )
    if arguments.out:
        write_result(arguments.out, {"seconds": result})


if __name__ == "__main__":
    main()

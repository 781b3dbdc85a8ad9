"""A sweep of 1,000 runs over two processes that are killed: every run once, none lost.

Claims: after ``kill -9`` at random moments, each followed by the same command line, the
two shares of a sweep have trained every run; no finished run was touched again;
nothing is left behind. Undisturbed, what a process spends outside the rounds (start,
compilation, files, results) is less than 10 % of the rounds themselves.

The digits federation of 4 clients: 250 seeds x 4 sparsities, one program. Moments of
kills are drawn from the time between two of them; half of them wait for the moment when
results are being written.

    python benchmarks/soak_shares.py --out benchmarks/results-soak_shares.json

Run nothing else meanwhile. About ten minutes on 2 cores.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, write_result

SPARSITIES = "0.5,0.7,0.9,0.95"
GOAL = 0.10


class Sweep:
    """A sweep's command line, and the processes that work on it."""

    def __init__(self, out: Path, seeds: int, rounds: int):
        self.out, self.rounds = out, rounds
        self.runs = seeds * len(SPARSITIES.split(","))
        options = f"--rounds {rounds} --num-clients 4 --seeds {seeds}"
        self._options = [*options.split(), "--final-sparsity", SPARSITIES]

    def start(self, share: str) -> subprocess.Popen[str]:
        """A process with a share, or the whole as one process."""
        command = [sys.executable, "-m", "fedsparsify_jax", "sweep", *self._options]
        return subprocess.Popen(
            [*command, "--out", str(self.out), *(["--share", share] if share else [])],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finished(self) -> dict[str, int]:
        """The runs that are finished, and when."""
        files = self.out.glob("*/summary.json")
        return {path.parent.name: path.stat().st_mtime_ns for path in files}

    def work(self) -> float:
        """Seconds of all rounds of all runs."""
        return sum(
            json.loads(line)["seconds"]
            for path in self.out.glob("*/metrics.jsonl")
            for line in path.read_text().splitlines()
        )

    def complaints(self, finished_before: dict[str, int]) -> list[str]:
        """What is wrong with the end; ``finished_before`` as each was first seen."""
        wrong = []
        rows = (self.out / "sweep.jsonl").read_text().splitlines()
        names = {json.loads(row)["run"] for row in rows}
        if len(rows) != self.runs or names != set(self.finished()):
            wrong.append(f"{len(rows)} rows of {len(names)} runs for {self.runs}")
        wanted = list(range(1, self.rounds + 1))
        for path in self.out.glob("*/metrics.jsonl"):
            lines = path.read_text().splitlines()
            if [json.loads(line)["round"] for line in lines] != wanted:
                wrong.append(f"{path.parent.name} has other rounds")
        again = self.finished()
        wrong += [f"{n} again" for n, t in finished_before.items() if again[n] != t]
        if (self.out / "groups").exists():
            wrong.append("checkpoints are left")
        return wrong


def soak(sweep: Sweep, kills: int, rng: random.Random) -> dict[str, Any]:
    """Two shares to the end, killed on the way."""
    shares = ["0/2", "1/2"]
    processes = {share: sweep.start(share) for share in shares}
    seen: dict[str, int] = {}
    done, moments, start = 0, [], time.perf_counter()
    while done < kills and len(sweep.finished()) < sweep.runs:
        # Any moment, or one while results are written.
        time.sleep(rng.uniform(2, 20))
        number = len(sweep.finished())
        in_results = rng.random() < 0.5
        deadline = time.monotonic() + 30
        while in_results and time.monotonic() < deadline:
            if number < len(sweep.finished()) < sweep.runs:
                break
            time.sleep(0.002)
        seen = sweep.finished() | seen
        share = rng.choice(shares)
        if processes[share].poll() is None:
            processes[share].kill()
            done += 1
            moments.append(len(seen))
        processes[share].communicate()
        processes[share] = sweep.start(share)
    errors = {share: process.communicate()[1] for share, process in processes.items()}
    # Both have ended while the last kill's piece was the other's: once more.
    statuses = [process.returncode for process in processes.values()]
    last = sweep.start("0/2")
    errors["last"] = last.communicate()[1]
    return {
        "kills": done,
        "finished_at_kills": moments,
        "statuses": [*statuses, last.returncode],
        "errors": [text[-300:] for text in errors.values() if text],
        "complaints": sweep.complaints(seen),
        "seconds": round(time.perf_counter() - start, 1),
    }


def undisturbed(sweep: Sweep, share: str) -> dict[str, Any]:
    """One process, and what of its time is not the rounds'."""
    start = time.perf_counter()
    process = sweep.start(share)
    error = process.communicate()[1]
    seconds, work = time.perf_counter() - start, sweep.work()
    assert process.returncode == 0, error
    return {
        "seconds": round(seconds, 1),
        "rounds_s": round(work, 1),
        "overhead": round((seconds - work) / work, 4),
        "overhead_ms_a_run": round(1000 * (seconds - work) / sweep.runs, 1),
        "rounds_ms_a_run": round(1000 * work / sweep.runs, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    size = arguments.seeds, arguments.rounds
    with tempfile.TemporaryDirectory() as folder:
        alone = undisturbed(Sweep(Path(folder, "alone"), *size), "0/1")
        print("undisturbed:", alone, flush=True)
        sweep = Sweep(Path(folder, "shared"), *size)
        soaked = soak(sweep, arguments.kills, random.Random(0))
    print("with kills:", soaked)
    result = {
        "runs": sweep.runs,
        "rounds": sweep.rounds,
        "undisturbed": alone,
        "goal": GOAL,
        "with_kills": soaked,
    }
    if arguments.out:
        write_result(arguments.out, result)


if __name__ == "__main__":
    main()

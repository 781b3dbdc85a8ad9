"""A run is killed at random moments and started again, to the same bits in the end.

Claim: after ``kill -9`` at 30 random moments (start-up, rounds, saves), each followed
by the same command line, ``metrics.jsonl`` (apart from seconds) and the model are those
of the uninterrupted run, to the bit.

Moments are drawn between the start of the process and some time into its rounds, evenly
among: any time of the start-up, any time after a new round, the middle of a save. The
digits federation, a checkpoint every fourth round; the run is as long as the kills
need, and whatever is left of it is played at the end.

    python benchmarks/soak_kills.py --out benchmarks/results-soak_kills.json

About five minutes on 2 cores.
"""

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ROOT, write_result

ROUNDS = 600
OPTIONS = ["--rounds", str(ROUNDS), "--local-epochs", "1", "--checkpoint-every", "4"]
START_UP = 6.0
"""Seconds into which kills during the start-up are spread."""


class Run:
    """One run directory and the processes that work on it."""

    def __init__(self, directory: Path):
        self.directory = directory

    def start(self) -> subprocess.Popen[str]:
        """The job's command line, always the same."""
        command = [sys.executable, "-m", "fedsparsify_jax", "train", *OPTIONS]
        return subprocess.Popen(
            [*command, "--out", str(self.directory), "--resume"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rounds(self) -> int:
        """Lines of ``metrics.jsonl``."""
        path = self.directory / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def saving(self) -> bool:
        """Whether a checkpoint is on its way, or was when it was killed."""
        return any(self.directory.glob("checkpoints/saving-*"))

    def result(self) -> tuple[list[dict[str, Any]], bytes]:
        """What must be the same: records without seconds, and the model."""
        lines = (self.directory / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        for record in records:
            del record["seconds"]
        model = self.directory / "model" / "model.safetensors"
        return records, model.read_bytes()


def _wait(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    """Until it is ready, or has ended."""
    while process.poll() is None and not ready():
        time.sleep(0.001)


def _kill(run: Run, moment: str, rng: random.Random) -> str:
    """Starts the run and kills it; says in what it was interrupted, "" if it ended."""
    before, process = run.rounds(), run.start()
    if moment == "start-up":
        time.sleep(rng.uniform(0.0, START_UP))
    else:
        _wait(process, lambda: run.rounds() > before)
        if moment == "save":
            _wait(process, run.saving)
        time.sleep(rng.uniform(0.0, 0.05 if moment == "save" else 1.0))
    process.kill()
    _, said = process.communicate()
    if process.returncode != -9:
        if process.returncode:
            raise AssertionError(f"a resumed run failed: {said}")
        return ""
    if run.rounds() <= before:
        return "start-up"
    return "save" if run.saving() else "round"


def soak(kills: int = 30, seed: int = 0) -> dict[str, Any]:
    """Kills a run again and again, and compares its end with the uninterrupted one.

    Args:
      kills: how often.
      seed: of the moments.

    Returns:
      Counts, and whether records and model are the same.

    Raises:
      AssertionError: if a start does not continue the run.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, run = Run(Path(folder) / "whole"), Run(Path(folder) / "killed")
        process = whole.start()
        _, said = process.communicate()
        assert process.returncode == 0, said
        interrupted: collections.Counter[str] = collections.Counter()
        for number in range(kills):
            moment = ("start-up", "round", "save")[number % 3]
            found = _kill(run, moment, rng)
            assert found, f"the run was over after {number} kills: make it longer"
            interrupted[found] += 1
            print(f"kill {number + 1}: in a {found}, {run.rounds()} rounds", flush=True)
        left = ROUNDS - run.rounds()
        process = run.start()
        _, said = process.communicate()
        assert process.returncode == 0, said
        records, model = run.result()
        wanted, wanted_model = whole.result()
    return {
        "kills": kills,
        "interrupted": dict(interrupted),
        "rounds": ROUNDS,
        "rounds_left_after_the_last_kill": left,
        "records_identical": records == wanted,
        "model_identical": model == wanted_model,
    }


def main() -> None:
    """Runs it and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result = soak(options.kills, options.seed)
    for name, value in result.items():
        print(f"{name}: {value}")
    if options.out:
        write_result(options.out, result)
    if not (result["records_identical"] and result["model_identical"]):
        sys.exit("the killed run ended differently")


if __name__ == "__main__":
    main()

"""A federation over Flower on this machine: time of a round, bytes of its messages.

Claims: a round of three nodes takes at most 3 s beyond its training; the command ends
within 90 s; messages are those that ``--measure-bytes`` counts, and a constant longer.

Digits, 10 rounds to 90 % (the defaults), with the Python of .venv-federate
(``tools/federate_env.sh``); idle otherwise:

    PYTHON benchmarks/federation.py --out benchmarks/results-federation.json

Bytes are those of the messages that are handed to Flower. What it adds around them, and
its looks for messages, are not in them.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from common import write_result
from rich.console import Console

from fedsparsify_jax.federate import trial, watching
from fedsparsify_jax.federate.options import LocalConfig
from fedsparsify_jax.runner import TrainConfig, train

NODES = 3
GOALS = {"seconds_beyond_training": 3.0, "command_seconds": 90.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    quiet = Console(quiet=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        start = time.monotonic()
        rounds = options.rounds
        trial.train(LocalConfig(nodes=NODES, rounds=rounds, out=work / "run"), quiet)
        whole = time.monotonic() - start
        alone = TrainConfig(
            num_clients=NODES, rounds=rounds, measure_bytes=True, out=work / "alone"
        )
        train(alone, quiet)
        rows, simulated = (
            watching.records(work / run / "metrics.jsonl") for run in ("run", "alone")
        )
    seconds = statistics.median(row["seconds"] for row in rows[1:])
    training = statistics.median(row["seconds"] for row in simulated[1:])
    envelopes = {}
    for way in ("up", "down"):
        field = f"message_bytes_{way}"
        more = [a[field] - b[field] for a, b in zip(rows, simulated, strict=True)]
        envelopes[way] = [number / NODES for number in more]
    result = {
        "nodes": NODES,
        "rounds": options.rounds,
        "command_seconds": round(whole, 1),
        "round_seconds": round(seconds, 2),
        "training_seconds": round(training, 3),
        "seconds_beyond_training": round(seconds - training, 2),
        "bytes_more_a_message": envelopes,
        "goals": GOALS,
    }
    print(result)
    if options.out:
        write_result(options.out, result)


if __name__ == "__main__":
    main()

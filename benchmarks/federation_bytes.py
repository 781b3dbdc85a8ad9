"""Bytes of a federation, counted at the transport, beside those that are measured.

Claim: what moves between the SuperLink and the nodes is what ``--measure-bytes`` counts
in a simulation and a constant a message, to 5 %.

Digits, three nodes, 10 rounds, as root on Linux (`tap`), with the Python of
.venv-federate (``tools/federate_env.sh``):

    PYTHON benchmarks/federation_bytes.py --out benchmarks/results-federation_bytes.json

Counted are the contents of TCP at the SuperLink's port, which are HTTP's requests and
answers. The constant is what a dense run's messages have beyond the measured bytes; it
is held against runs to 90 and 99 %, whose messages are shorter. Looks for messages and
heartbeats carry none: their number depends on time, so they are listed beside.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import put_table, write_result
from rich.console import Console
from tap import Asked, Tap

from fedsparsify_jax import text_table
from fedsparsify_jax.federate import trial, watching
from fedsparsify_jax.federate.options import LocalConfig
from fedsparsify_jax.runner import TrainConfig, train

NODES = 3
FLEET = "/v1/fleet/"
CARRIERS = ("push-object", "pull-object", "push-messages", "confirm-message-received")
"""Requests that a message costs, whatever time it takes; others are looks."""
RUNS: dict[str, dict[str, Any]] = {
    "dense": {"algorithm": "fedavg"},
    "90 %": {"final_sparsity": 0.9},
    "99 %": {"final_sparsity": 0.99},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        for run, extra in RUNS.items():
            work = Path(name) / run.replace(" %", "")
            rows[run] = _run(work, {"rounds": options.rounds, **extra})
            print(run, rows[run], flush=True)
    messages = NODES * options.rounds  # of each direction
    constant = {
        way: (rows["dense"]["moved"][way] - rows["dense"]["measured"][way]) / messages
        for way in ("up", "down")
    }
    for row in rows.values():
        row["off_by"] = {
            way: row["moved"][way] / (row["measured"][way] + constant[way] * messages)
            - 1
            for way in ("up", "down")
        }
    result = {
        "nodes": NODES,
        "rounds": options.rounds,
        "constant_bytes_a_message": {k: round(v) for k, v in constant.items()},
        "runs": rows,
        "goal_off_by": 0.05,
    }
    print(result)
    if options.out:
        write_result(options.out, result)
        put_table("federation bytes", table(result))


def table(result: Mapping[str, Any]) -> str:
    """Returns the result as a table in Markdown."""
    constant = result["constant_bytes_a_message"]
    rows = [
        [
            run,
            way,
            f"{row['measured'][way]:,}",
            f"{row['moved'][way]:,}",
            f"{constant[way]:,}",
            f"{100 * row['off_by'][way]:+.1f} %",
        ]
        for run, row in result["runs"].items()
        for way in ("up", "down")
    ]
    head = [
        "run",
        "way",
        "measured",
        "moved",
        "constant a message",
        "moved beyond both",
    ]
    return text_table.markdown(head, rows)


def _run(work: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Returns what a federation moved, and what its simulation counts."""
    quiet = Console(quiet=True)
    with Tap(FLEET) as tap:
        trial.train(LocalConfig(nodes=NODES, out=work / "run", **options), quiet)
    alone = TrainConfig(
        num_clients=NODES, measure_bytes=True, out=work / "alone", **options
    )
    train(alone, quiet)
    rows = watching.records(work / "alone" / "metrics.jsonl")
    carried = [tap.paths.get(path, Asked()) for path in CARRIERS]
    others = {
        path: vars(asked) for path, asked in tap.paths.items() if path not in CARRIERS
    }
    return {
        "measured": {
            way: sum(row[f"message_bytes_{way}"] for row in rows)
            for way in ("up", "down")
        },
        "moved": {
            "up": sum(asked.up for asked in carried),
            "down": sum(asked.down for asked in carried),
        },
        "carriers": {p: vars(a) for p, a in zip(CARRIERS, carried, strict=True)},
        "beside": others,
    }


if __name__ == "__main__":
    main()

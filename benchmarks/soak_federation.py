"""A federation over Flower whose nodes are killed at random: no round is lost.

Claims: of 100 rounds none is missing; a killed node comes back as the same client; the
final model is within the noise of the undisturbed one (the same command with other
seeds); no process is left.

Digits, four nodes, momentum kept by clients; every node is killed (``kill -9`` of the
SuperNode and its worker) at random moments and started again at once. With the Python
of .venv-federate (``tools/federate_env.sh``):

    PYTHON benchmarks/soak_federation.py --out benchmarks/results-soak_federation.json

Idle otherwise. Kills are few minutes apart in a real federation; here there are some
seconds between them, and a round waits 10 s for a node that is gone.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import put_table, write_result
from rich.console import Console

from fedsparsify_jax import text_table
from fedsparsify_jax.federate import trial, watching
from fedsparsify_jax.federate.flower import local
from fedsparsify_jax.federate.options import LocalConfig
from fedsparsify_jax.runner import TrainConfig, train

NODES = 4
OPTIONS = {"momentum": 0.9, "optimizer_state": "kept", "learning_rate": 0.02}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--kills", type=int, default=12)
    options = parser.parse_args()
    drawn, quiet = random.Random(0), Console(quiet=True)
    moments = sorted(drawn.sample(range(2, options.rounds - 5), options.kills))
    killed: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)

        def meanwhile(federation: local.Federation) -> None:
            path = work / "run" / "metrics.jsonl"
            rounds = path.read_text().count("\n") if path.exists() else 0
            if len(killed) < len(moments) and rounds >= moments[len(killed)]:
                number = drawn.randrange(NODES)
                time.sleep(drawn.uniform(0.0, 3.0))  # anywhere within the round
                federation.nodes[number].kill()
                killed.append({"round": rounds + 1, "client": number})
                federation.nodes[number].start()

        start = time.monotonic()
        trial.train(
            LocalConfig(
                nodes=NODES,
                rounds=options.rounds,
                round_timeout=10.0,
                out=work / "run",
                **OPTIONS,
            ),
            quiet,
            meanwhile,
        )
        seconds = time.monotonic() - start
        rows = watching.records(work / "run" / "metrics.jsonl")
        others = [
            train(
                TrainConfig(
                    num_clients=NODES,
                    rounds=options.rounds,
                    seed=seed,
                    out=work / f"alone-{seed}",
                    **OPTIONS,
                ),
                quiet,
            )["test_accuracy"]
            for seed in range(5)
        ]
    lost = options.rounds - len(rows)
    result = {
        "nodes": NODES,
        "rounds": options.rounds,
        "rounds_lost": lost,
        "kills": killed,
        "uploads_missing": sum(row["dropped"] for row in rows),
        "merged_in_last_round": rows[-1]["merged"],
        "seconds": round(seconds, 1),
        "test_accuracy": rows[-1]["test_accuracy"],
        "undisturbed": {
            "test_accuracies": others,
            "mean": statistics.fmean(others),
            "deviation": statistics.stdev(others),
        },
    }
    print(result)
    if options.out:
        write_result(options.out, result)
        put_table("federation soak", table(result))


def table(result: Mapping[str, Any]) -> str:
    """Returns the result as a table in Markdown."""
    alone = result["undisturbed"]
    return text_table.markdown(
        ["rounds", "kills", "rounds lost", "uploads missed", "accuracy", "undisturbed"],
        [
            [
                str(result["rounds"]),
                str(len(result["kills"])),
                str(result["rounds_lost"]),
                f"{result['uploads_missing']} of {result['rounds'] * result['nodes']}",
                f"{100 * result['test_accuracy']:.1f} %",
                f"{100 * alone['mean']:.1f} ± {100 * alone['deviation']:.1f} %",
            ]
        ],
    )


if __name__ == "__main__":
    main()

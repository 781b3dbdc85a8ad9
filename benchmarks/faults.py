"""What looking for broken uploads costs: a round of this tree against an earlier one.

Claim: a round without faults takes at most 1.02 x the same round before there was any
handling of faults (commit 95b7619).

Work of a round: 10 clients x 6,000 images of 28x28, the 118,282-parameter MLP, 4 local
epochs, batch 32, SGD 0.02, FedSparsify-Global and -Local, one client at a time on one
core. A worker for each tree plays a round when it is told to, in turns; medians and
ratios of medians of the CPU time, in which others' work does not count, are printed and
written as JSON.

    git worktree add /tmp/before 95b7619
    python benchmarks/faults.py --before /tmp/before --out FILE.json

Run nothing else meanwhile. About two minutes on 2 cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import ROOT, write_result

GOAL = 1.02
METHODS = ("fedsparsify_global", "fedsparsify_local")


def clients() -> Any:
    from fedsparsify_jax.types import ClientData

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (10, 6000, 28, 28), dtype=np.uint8)
    y = rng.integers(0, 10, (10, 6000), dtype=np.int32)
    return ClientData(jnp.asarray(x), jnp.asarray(y), jnp.full(10, 6000, jnp.int32))


def work() -> None:
    """A worker: for every line with a method's name it plays a round of it."""
    from fedsparsify_jax import algorithms, client_map, data, models

    model = models.build(
        "mlp",
        input_shape=(28, 28),
        num_classes=10,
        preprocess=data.Normalization(0.0, 256.0),
    )
    here, states, steps = clients(), {}, {}
    for name in METHODS:
        made = getattr(algorithms, name)(
            model.apply,
            final_sparsity=0.95,
            rounds=200,
            client_map=client_map.chunked(1),
        )
        states[name] = made.init(jax.random.key(1), model.init(jax.random.key(2)))
        lowered = jax.jit(made.step, donate_argnums=1).lower(
            jax.random.key(3), states[name], here
        )
        steps[name] = lowered.compile()
    print("ready", flush=True)
    for t, line in enumerate(sys.stdin):
        name, key = line.strip(), jax.random.fold_in(jax.random.key(3), t)
        start = time.process_time()
        states[name], info = steps[name](key, states[name], here)
        jax.block_until_ready((states[name], info))
        print(json.dumps(time.process_time() - start), flush=True)


def worker(tree: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(tree), str(ROOT / "benchmarks")])
    return subprocess.Popen(
        [sys.executable, __file__, "--work"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tree,
        env=os.environ | {"PYTHONPATH": path},
    )


def measure(before: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    workers = {"before": worker(before), "now": worker(ROOT)}
    for process in workers.values():
        assert process.stdout and process.stdout.readline() == "ready\n"
    seconds: dict[str, dict[str, list[float]]] = {
        name: {side: [] for side in workers} for name in METHODS
    }
    for t in range(rounds + 1):
        for name in METHODS:
            for side, process in workers.items():
                assert process.stdin and process.stdout
                process.stdin.write(name + "\n")
                process.stdin.flush()
                took = json.loads(process.stdout.readline())
                if t:  # the first round warms up
                    seconds[name][side].append(took)
    for process in workers.values():
        process.kill()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="a tree of commit 95b7619")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds each")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work()
        return
    if arguments.before is None:
        parser.error("--before DIR is needed: git worktree add DIR 95b7619")
    seconds = measure(arguments.before.resolve(), arguments.rounds)
    result: dict[str, Any] = {"seconds": seconds, "ratios": {}}
    for name, sides in seconds.items():
        medians = {side: statistics.median(values) for side, values in sides.items()}
        ratio = medians["now"] / medians["before"]
        result["ratios"][name] = ratio
        print(
            f"{name:20} before {medians['before']:.3f} s  now {medians['now']:.3f} s  "
            f"ratio {ratio:.3f} (goal <= {GOAL})"
        )
    if arguments.out:
        write_result(arguments.out, result)


if __name__ == "__main__":
    main()

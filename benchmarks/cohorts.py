"""Memory and time of large cohorts, and the strategies that run them.

Claim: a cohort of 1,000 MLP clients takes at most 1.3 x the memory of a cohort of 100
plus its data, and at most 1.2 x the time a client.

Work of a round: FedSparsify-Global, the 118,282-parameter MLP, 64 images of 28x28 a
client (synthetic), one local epoch, batch 32, everybody takes part. ``auto`` is what
``fedsparsify train`` does. Each line is a process of its own; its memory is the peak of
resident memory, with what was there before the first round (Python, JAX, the data)
shown beside it.

    python benchmarks/cohorts.py --out benchmarks/results-cohorts.json

Run nothing else meanwhile. About three minutes on 2 cores.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import write_result

EXAMPLES, ROUNDS = 64, 5
# clients, strategy
LINES = [
    (100, "auto"),
    (1000, "auto"),
    (100, "vmap"),
    (1000, "vmap"),
    (100, "map"),
    (100, "one device, vmap"),
    (100, "one device, map"),
]


def peak() -> float:
    """Peak of this process's resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(clients: int, name: str) -> dict[str, float]:
    """One line, in this process."""
    import jax
    import numpy as np

    jax.config.update("jax_num_cpu_devices", 1 if "one device" in name else 2)
    import jax.numpy as jnp

    from fedsparsify_jax import algorithms, client_map, data, models
    from fedsparsify_jax.runner.programs.devices import place
    from fedsparsify_jax.runner.programs.placement import cohort_map
    from fedsparsify_jax.types import ClientData

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (clients, EXAMPLES, 28, 28), dtype=np.uint8)
    y = rng.integers(0, 10, (clients, EXAMPLES), dtype=np.int32)
    normalization = data.Normalization(0.0, 256.0)
    model = models.build(
        "mlp", input_shape=(28, 28), num_classes=10, preprocess=normalization
    )
    devices, mesh = jax.devices(), client_map.device_mesh()
    options = {"cohort": name.split()[-1], "chunk_size": None, "model": "mlp"}
    algorithm = algorithms.fedsparsify_global(
        model.apply,
        final_sparsity=0.95,
        rounds=200,
        local_epochs=1,
        client_map=cohort_map(options, model, mesh),
    )
    counts = jnp.full(clients, EXAMPLES, jnp.int32)
    stacked = ClientData(jnp.asarray(x), jnp.asarray(y), counts)
    placement = place(stacked, 1.0, devices)
    held = placement.put_clients(stacked)
    state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
    state = placement.put_state(state)
    del x, y, stacked
    step = jax.jit(algorithm.step, donate_argnums=1)
    before, seconds = peak(), []
    for t in range(ROUNDS + 1):
        start = time.perf_counter()
        state, info = step(jax.random.fold_in(jax.random.key(2), t), state, held)
        jax.block_until_ready((state, info))
        seconds.append(time.perf_counter() - start)
    return {
        "before_mb": before,
        "peak_mb": peak(),
        "data_mb": clients * EXAMPLES * 784 / 2**20,
        "ms_a_client": 1000 * statistics.median(seconds[1:]) / clients,
    }


def in_a_process(clients: int, name: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--clients", str(clients), "--strategy", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, help="measure one line in this process")
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    if arguments.clients:
        print(json.dumps(measure(arguments.clients, arguments.strategy)))
        return
    found: list[dict[str, Any]] = []
    print("clients  strategy            before MB  peak MB  data MB  ms a client")
    for clients, name in LINES:
        line = in_a_process(clients, name)
        found.append({"clients": clients, "strategy": name, **line})
        numbers = "  ".join(f"{value:8.2f}" for value in line.values())
        print(f"{clients:7}  {name:18}  {numbers}")
    few, many = found[0], found[1]
    allowed = 1.3 * few["peak_mb"] + many["data_mb"]
    slower = many["ms_a_client"] / few["ms_a_client"]
    grown = many["peak_mb"] - many["before_mb"]
    print(
        f"1,000 against 100 clients: peak {many['peak_mb']:.0f} MB (goal <= "
        f"{allowed:.0f}), {slower:.2f} x the time a client (goal <= 1.2); the rounds "
        f"themselves added {grown:.0f} MB against "
        f"{few['peak_mb'] - few['before_mb']:.0f}"
    )
    if arguments.out:
        write_result(arguments.out, {"lines": found, "allowed_mb": allowed})


if __name__ == "__main__":
    main()

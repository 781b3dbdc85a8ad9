"""Local training of the CIFAR CNN on the CPU: this library against PyTorch.

Claim: a client step (forward, backward and update of the 1,609,930-parameter ``cnn`` at
batch 32) takes at most 1.0 x the time of PyTorch 2.13.0 with channels last and two
threads.

Work: 4 clients with their own kernels, 4 steps each, inside ``lax.scan``; clients
one after another on a device, divided over one JAX device a core (``2 devices``) or all
on one. PyTorch's environment is made on the first run. Every contestant takes its turn;
medians of the seconds a client step are printed with their ratios to PyTorch's, and the
memory that the program needs beside its arguments.

    python benchmarks/convolutions.py                 # about a minute on 2 cores
    python benchmarks/convolutions.py --out FILE.json --turns 9
    python benchmarks/convolutions.py --xla           # with XLA's own: minutes
"""

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import isolated, write_result
from jax.sharding import NamedSharding, PartitionSpec

from fedsparsify_jax import models
from fedsparsify_jax.client_map import AXIS, chunked, device_mesh, sharded
from fedsparsify_jax.training.losses import cross_entropy
from fedsparsify_jax.types import PyTree, Variables

CLIENTS, STEPS, BATCH, RATE = 4, 4, 32, 0.02
REQUIREMENTS = ["torch==2.13.0", "numpy"]
CONTESTANTS = {  # name: implementation of the convolutions, devices
    "auto, 2 devices": ("auto", 2),
    "auto, 1 device": ("auto", 1),
    "patches, 2 devices": ("patches", 2),
}
SLOW = {"xla, 2 devices": ("xla", 2)}
GOAL = {"auto, 2 devices": 1.0}
Turn = Callable[[], float]
"""Makes a turn and returns its seconds a client step."""


def torch_turn() -> tuple[Turn, str]:
    """PyTorch in a process of its own, which sleeps between its turns."""
    script = Path(__file__).with_name("convolutions_torch.py")
    worker = subprocess.Popen(
        [str(isolated("torch", REQUIREMENTS)), str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None and worker.stdout is not None
    ask, answers = worker.stdin, worker.stdout
    parameters, version = answers.readline().split()
    assert int(parameters) == 1_609_930, parameters

    def turn() -> float:
        ask.write(f"{CLIENTS * STEPS}\n")
        ask.flush()
        return float(answers.readline())

    return turn, version


def client_steps(model: models.Model) -> Callable[[Variables, Any], Any]:
    """One client's plain SGD over its batches, without any federation."""

    def loss(params: PyTree, others: PyTree, x: jax.Array, y: jax.Array) -> Any:
        key = jax.random.key(0)
        outputs, changed = model.apply(
            {"params": params, **others}, x, train=True, key=key
        )
        return jnp.mean(cross_entropy(outputs, y)), changed

    def step(variables: Variables, batch: Any) -> tuple[Variables, jax.Array]:
        params, others = variables["params"], {"batch_stats": variables["batch_stats"]}
        run = jax.value_and_grad(loss, has_aux=True)
        (value, changed), slopes = run(params, others, *batch)
        params = jax.tree.map(lambda w, g: w - RATE * g, params, slopes)
        return {**changed, "params": params}, value

    return lambda variables, batches: jax.lax.scan(step, variables, batches)


def jax_turn(conv: str, devices: int) -> tuple[Turn, int, jax.Array]:
    """Our contestant: its turn, bytes of temporary memory, and first losses."""
    model = models.build("cnn", input_shape=(32, 32, 3), num_classes=10, conv=conv)
    mesh = device_mesh(jax.devices()[:devices])
    rng = np.random.default_rng(0)
    shape = (CLIENTS, STEPS, BATCH)
    x = rng.random((*shape, 32, 32, 3), dtype=np.float32)
    y = rng.integers(0, 10, shape, dtype=np.int32)
    batches = jax.device_put((x, y), NamedSharding(mesh, PartitionSpec(AXIS)))
    variables = jax.device_put(
        model.init(jax.random.key(0)), NamedSharding(mesh, PartitionSpec())
    )
    work, cohort = client_steps(model), sharded(mesh, chunked(1))
    program = jax.jit(lambda *arguments: cohort(work, *arguments))
    run = program.lower(variables, batches).compile()
    memory = run.memory_analysis().temp_size_in_bytes
    _, losses = run(variables, batches)

    def turn() -> float:
        start = time.perf_counter()
        jax.block_until_ready(run(variables, batches))
        return (time.perf_counter() - start) / (CLIENTS * STEPS)

    return turn, memory, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5, help="timed turns of each")
    parser.add_argument("--xla", action="store_true", help="XLA's convolution too")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    contestants = CONTESTANTS | (SLOW if arguments.xla else {})
    jax.config.update("jax_num_cpu_devices", 2)
    peer, version = torch_turn()
    turns, memory, expected = {f"torch {version}": peer}, {}, None
    for name, chosen in contestants.items():
        turns[name], memory[name], losses = jax_turn(*chosen)
        expected = losses if expected is None else expected
        # Later losses differ more: rounding decides close pools, and training goes on.
        np.testing.assert_allclose(losses[:, 0], expected[:, 0], rtol=1e-4)
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(arguments.turns):
        for name, turn in turns.items():
            seconds[name].append(turn())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    against = medians[f"torch {version}"]
    ratios = {name: medians[name] / against for name in contestants}
    print(f"{'contestant':20} {'median s':>9} {'min':>7} {'max':>7}  memory  ratio")
    for name, values in seconds.items():
        line = f"{name:20} {medians[name]:9.4f} {min(values):7.4f} {max(values):7.4f}"
        if name in ratios:
            goal = f" (goal <= {GOAL[name]})" if name in GOAL else ""
            line += f"  {memory[name] / 1e6:4.0f} MB  {ratios[name]:.3f} x{goal}"
        print(line)
    if arguments.out:
        result = {"seconds": seconds, "medians": medians, "ratios": ratios}
        write_result(arguments.out, result | {"temporary_bytes": memory})


if __name__ == "__main__":
    main()

"""Rounds of cnn and vgg16_bn without their purged channels, against rounds in full.

Reports, without a goal: the time of a complete round of two clients with 64 CIFAR-sized
images each, one epoch in batches of 32, after Global has purged channels to 50, 80
and 90 %, and what of the channels its form keeps. Both play from the same state in
turns, in one process on one JAX device a core; images are noise, for time does not
depend on them.

    python benchmarks/channel_rounds.py --out benchmarks/results-channel_rounds.json

Run nothing else meanwhile. About ten minutes on 2 cores, most of it compiling.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import write_result

from fedsparsify_jax import algorithms, models, schedules
from fedsparsify_jax.client_map import chunked, device_mesh, sharded
from fedsparsify_jax.models.adapters.layers import layers_of
from fedsparsify_jax.training.compact import CompactForm, plan_for, stages_of
from fedsparsify_jax.types import ClientData

SHAPE, CLIENTS, EXAMPLES = (32, 32, 3), 2, 64


def clients() -> ClientData:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(CLIENTS, EXAMPLES, *SHAPE)).astype(np.float32)
    y = rng.integers(0, 10, (CLIENTS, EXAMPLES), dtype=np.int32)
    sizes = jnp.full(CLIENTS, EXAMPLES, jnp.int32)
    return ClientData(jnp.asarray(x), jnp.asarray(y), sizes)


def step_of(model: Any, sparsity: float, form: CompactForm | None) -> Any:
    """A round of Global at one sparsity, compiled."""
    algorithm = algorithms.fedsparsify_global(
        model.apply,
        pattern="channel",
        schedule=schedules.constant(sparsity),
        local_epochs=1,
        client_map=sharded(device_mesh(), inner=chunked(1)),
        compact_form=form,
    )
    return algorithm, jax.jit(algorithm.step)


def measure(name: str, sparsity: float, rounds: int) -> dict[str, Any]:
    """Seconds of a round in full and on the form that these masks leave."""
    model = models.build(name, input_shape=SHAPE, num_classes=10)
    data, key = clients(), jax.random.key(0)
    algorithm, full = step_of(model, sparsity, None)
    state = algorithm.init(jax.random.key(1), model.init(jax.random.key(2)))
    state, _ = full(key, state, data)  # purges, and compiles
    example = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    stages = stages_of(layers_of(model.apply, state.variables, example))
    plan = plan_for(stages, state.masks)
    _, small = step_of(model, sparsity, CompactForm(model.apply, stages, plan))
    seconds: dict[str, list[float]] = {"full": [], "small": []}
    for t in range(rounds + 1):
        results = {}
        for side, step in (("full", full), ("small", small)):
            start = time.perf_counter()
            results[side] = jax.block_until_ready(step(key, state, data))
            if t:  # the first round compiles
                seconds[side].append(time.perf_counter() - start)
        losses = [float(info.loss) for _, info in results.values()]
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    return {
        "seconds": {side: round(value, 4) for side, value in medians.items()},
        "ratio": round(medians["small"] / medians["full"], 3),
        "units": [None if units is None else int(units) for units in plan.units],
        "losses_apart": abs(losses[0] - losses[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="cnn,vgg16_bn")
    parser.add_argument("--sparsities", default="0.5,0.8,0.9")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    results = {}
    for name in arguments.models.split(","):
        for sparsity in map(float, arguments.sparsities.split(",")):
            case = f"{name} {sparsity:g}"
            results[case] = measure(name, sparsity, arguments.rounds)
            print(case, results[case], flush=True)
            if arguments.out:
                write_result(arguments.out, {"cases": results})


if __name__ == "__main__":
    main()

"""Rounds on the small form of a pruned network against the same rounds in full.

Claim: with the masks that FedSparsify-Global leaves at 95 % (99 %) sparsity, a complete
round whose clients train the small form takes at most 0.70 x (0.45 x) the round in full
at its best cohort strategy; their training losses agree to 1e-5 in every round.

Work of a round: FashionMNIST (synthetic images where it is not installed), 10 clients x
6,000 images, the 118,282-parameter MLP, 4 local epochs, batch 32, SGD 0.02, merge,
purge and reporting. For every sparsity a Global run of 20 rounds leaves the masks; all
contestants then play on from its last state, round by round in turn, in one process on
one JAX device a core. Each starts every round from the same state, so the differences
printed are those of one round. (Weights differ by more than losses: 752 steps of a
client multiply the rounding of a sum in another order.)

    python benchmarks/sparse_training.py
    python benchmarks/sparse_training.py --out FILE.json --rounds 12

Run nothing else meanwhile. About four minutes on 2 cores.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import write_result

from fedsparsify_jax import algorithms, data, models, schedules, trees
from fedsparsify_jax.client_map import ClientMap, chunked, device_mesh, sharded, vmapped
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.models.adapters.layers import layers_of
from fedsparsify_jax.training.compact import CompactForm, Plan, plan_for, stages_of
from fedsparsify_jax.types import ClientData, State

CLIENTS, EXAMPLES, LEADING, SEED = 10, 6000, 20, 0
GOALS = {0.95: 0.70, 0.99: 0.45}
MODEL = models.build(
    "mlp",
    input_shape=(28, 28),
    num_classes=10,
    preprocess=data.Normalization(0.0, 256.0),
)


def federation() -> tuple[ClientData, str]:
    """The clients, and what their images are."""
    try:
        train = data.load("fashion_mnist").train
        return data.stack(train, data.iid(train.y, CLIENTS, SEED)), "FashionMNIST"
    except InputError:
        rng = np.random.default_rng(SEED)
        shape = (CLIENTS, EXAMPLES)
        y = rng.integers(0, 10, shape, dtype=np.int32)
        noise = rng.integers(0, 160, (*shape, 28, 28), dtype=np.uint8)
        classes = rng.integers(0, 96, (10, 28, 28), dtype=np.uint8)
        count = jnp.full(CLIENTS, EXAMPLES, jnp.int32)
        x = jnp.asarray(noise + classes[y])
        return ClientData(x, jnp.asarray(y), count), "synthetic images"


def left_by_global(sparsity: float, clients: ClientData) -> State:
    """The state after a Global run that ends at this sparsity."""
    algorithm = algorithms.fedsparsify_global(
        MODEL.apply,
        final_sparsity=sparsity,
        rounds=LEADING,
        client_map=sharded(device_mesh()),
    )
    state = algorithm.init(jax.random.key(SEED), MODEL.init(jax.random.key(1)))
    step = jax.jit(algorithm.step, donate_argnums=1)
    for t in range(LEADING):
        state, _ = step(jax.random.fold_in(jax.random.key(2), t), state, clients)
    return state


def contestants(state: State, sparsity: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Name to a round, and the plans of the small forms."""
    x = jax.ShapeDtypeStruct((1, 28, 28), jnp.uint8)
    stages = stages_of(layers_of(MODEL.apply, state.variables, x))
    chosen = plan_for(stages, state.masks)
    compact = plan_for(stages, state.masks, lists=False)
    one_by_one, at_once = chunked(1), vmapped()
    sides: dict[str, tuple[Plan | None, ClientMap]] = {
        "full, vmap": (None, at_once),
        "full, map": (None, one_by_one),
        "compaction, map": (compact, one_by_one),
        "chosen, map": (chosen, one_by_one),
        "chosen, vmap": (chosen, at_once),
    }
    rounds: dict[str, Callable[..., Any]] = {}
    for name, (plan, inner) in sides.items():
        form = plan and CompactForm(MODEL.apply, stages, plan)
        algorithm = algorithms.fedsparsify_global(
            MODEL.apply,
            schedule=schedules.constant(sparsity),
            client_map=sharded(device_mesh(), inner=inner),
            compact_form=form,
        )
        rounds[name] = jax.jit(algorithm.step)
    return rounds, {"chosen": chosen._asdict(), "compaction": compact._asdict()}


def difference(a: Any, b: Any) -> float:
    """The largest difference between two trees of numbers."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in pairs)


def measure(sparsity: float, clients: ClientData, rounds: int) -> dict[str, Any]:
    """Seconds of every contestant, and the largest differences to the full round."""
    state = left_by_global(sparsity, clients)
    density = {
        name: round(float(jnp.mean(leaf)), 4)
        for name, leaf in trees.named_leaves(state.masks)
    }
    steps, plans = contestants(state, sparsity)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    apart = {name: {"loss": 0.0, "variables": 0.0} for name in steps}
    for t in range(rounds + 1):
        key = jax.random.fold_in(jax.random.key(3), t)
        results = {}
        for name, step in steps.items():
            start = time.perf_counter()
            results[name] = jax.block_until_ready(step(key, state, clients))
            if t:  # the first round compiles
                seconds[name].append(time.perf_counter() - start)
        expected, info = results["full, vmap"]
        for name, (found, seen) in results.items():
            assert bool(jnp.array_equal(info.cohort, seen.cohort))
            worst = apart[name]
            worst["loss"] = max(worst["loss"], float(abs(seen.loss - info.loss)))
            moved = difference(found.variables, expected.variables)
            worst["variables"] = max(worst["variables"], moved)
        state = expected
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min(medians["full, vmap"], medians["full, map"])
    return {
        "density": density,
        "plans": plans,
        "seconds": seconds,
        "medians": medians,
        "ratios": {name: median / best for name, median in medians.items()},
        "apart": apart,
    }


def show(sparsity: float, result: dict[str, Any]) -> None:
    print(f"\n{sparsity:.0%}: kept {result['density']}", flush=True)
    print(f"chosen: {result['plans']['chosen']}")
    print(f"{'round':18} {'median s':>8} {'min':>6} {'max':>6}  ratio  apart: loss, w")
    for name, values in result["seconds"].items():
        apart = result["apart"][name]
        goal = f" (goal <= {GOALS[sparsity]})" if name == "chosen, map" else ""
        print(
            f"{name:18} {result['medians'][name]:8.3f} {min(values):6.3f} "
            f"{max(values):6.3f}  {result['ratios'][name]:.3f}  {apart['loss']:.1e} "
            f"{apart['variables']:.1e}{goal}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds each")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    clients, images = federation()
    results: dict[str, Any] = {"images": images}
    for sparsity in GOALS:
        results[str(sparsity)] = measure(sparsity, clients, arguments.rounds)
        show(sparsity, results[str(sparsity)])
    if arguments.out:
        write_result(arguments.out, results)


if __name__ == "__main__":
    main()

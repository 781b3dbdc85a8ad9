"""The exact global threshold against a sort, and what sparsity costs of a round.

Claims: `pruning.prune` (exact count, ties by index, traced sparsity) is at least 15 x
faster than masks made with ``jnp.sort`` at 1.6 M parameters (the shapes of ``cnn``) and
at 14.8 M (``vgg16_bn``), and under ``vmap`` over 10 clients; purge, vote and merge
take at most 3 % of a round.

Work: random normal weights in the shapes of the models, sparsity 0.9. The sort's masks
are the weights at or above the k-th largest of all, concatenated, so they keep every
tie. Rounds: ``mlp`` as in `round.py` (10 clients x 6,000 images of 28x28), ``cnn`` with
10 clients x 200 images of 32x32x3; 4 epochs, batch 32; clients sharded over one device
a core. What FedSparsify adds to a round is timed as a program of its own: for Local the
purge of every client, the vote and the merge, for Global the merge and the purge.
Contestants take turns in one process.

    python benchmarks/threshold.py                     # about four minutes on 2 cores
    python benchmarks/threshold.py --out FILE.json
    python benchmarks/threshold.py --only prune,shares # either part
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import write_result

from fedsparsify_jax import aggregation, algorithms, masks, models, pruning
from fedsparsify_jax.client_map import ClientMap, chunked, device_mesh, sharded, vmapped
from fedsparsify_jax.data import Normalization
from fedsparsify_jax.types import ClientData, Masks, Variables

GOAL, GOAL_SHARE, SPARSITY = 15.0, 0.03, 0.9
MODELS = {
    "mlp": ((28, 28), 10),
    "cnn": ((32, 32, 3), 10),
    "vgg16_bn": ((32, 32, 3), 100),
}
# Examples a client, rounds timed, and how a device runs its clients.
ROUNDS: dict[str, tuple[int, int, Callable[[], ClientMap]]] = {
    "mlp": (6000, 5, vmapped),
    "cnn": (200, 1, lambda: chunked(1)),
}
CLIENTS = 10
Seconds = dict[str, list[float]]


def model_of(name: str) -> models.Model:
    shape, classes = MODELS[name]
    return models.build(
        name, input_shape=shape, num_classes=classes, preprocess=Normalization(0, 256)
    )


def random_variables(name: str, lead: tuple[int, ...] = ()) -> Variables:
    """Normal numbers in the shapes of a model's variables, ``lead`` before them."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model_of(name).init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(
            rng.standard_normal((*lead, *leaf.shape), dtype=np.float32)
        ),
        shapes,
    )


def by_threshold(variables: Variables, sparsity: jax.Array) -> Masks:
    return pruning.prune(pruning.magnitude(variables), sparsity)["params"]


def by_sort(variables: Variables, sparsity: jax.Array) -> Masks:
    scores = pruning.magnitude(variables["params"])
    flat = jnp.sort(jnp.concatenate([jnp.ravel(s) for s in jax.tree.leaves(scores)]))
    dropped = jnp.floor(sparsity * flat.size).astype(jnp.int32)
    return jax.tree.map(lambda leaf: leaf >= flat[dropped], scores)


def timed(
    players: Mapping[str, Callable[[], Any]], times: Mapping[str, int]
) -> Seconds:
    """Seconds of every player's turns; the programs are compiled beforehand."""
    seconds: Seconds = {name: [] for name in players}
    for turn in range(max(times.values())):
        for name, play in players.items():
            if turn < times[name]:
                start = time.perf_counter()
                jax.block_until_ready(play())
                seconds[name].append(time.perf_counter() - start)
    return seconds


def prune_against_sort(repeat: int) -> dict[str, Any]:
    results = {}
    for name, lead in (("cnn", ()), ("vgg16_bn", ()), ("cnn", (CLIENTS,))):
        variables, sparsity = random_variables(name, lead), jnp.float32(SPARSITY)
        programs = {"prune": by_threshold, "sort": by_sort}
        if lead:
            programs = {
                key: jax.vmap(fn, in_axes=(0, None)) for key, fn in programs.items()
            }
        players = {}
        for key, fn in programs.items():
            run = jax.jit(fn).lower(variables, sparsity).compile()
            players[key] = functools.partial(run, variables, sparsity)
        found = [jax.tree.leaves(play()) for play in players.values()]
        for a, b in zip(*found, strict=True):
            # Only the sort keeps all of the weights that tie at the threshold.
            assert int(jnp.sum(a != b)) <= 5 * (CLIENTS if lead else 1)
        seconds = timed(players, {"prune": 3 * repeat, "sort": repeat})
        label = name + (f" x {CLIENTS}, vmap" if lead else "")
        results[label] = summary(seconds) | {"parameters": parameters(variables)}
        prune, sort = (results[label]["medians"][key] for key in players)
        print(
            f"{label:18} {parameters(variables):11,} parameters: sort {sort:8.4f} s, "
            f"prune {prune:7.4f} s, {sort / prune:6.1f} x (goal >= {GOAL:.0f})",
            flush=True,
        )
    return results


def parameters(variables: Variables) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def summary(seconds: Seconds) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"seconds": seconds, "medians": medians}


def synthetic_clients(name: str) -> ClientData:
    rng, examples = np.random.default_rng(0), ROUNDS[name][0]
    shape, classes = MODELS[name]
    x = rng.integers(0, 256, (CLIENTS, examples, *shape), dtype=np.uint8)
    y = rng.integers(0, classes, (CLIENTS, examples), dtype=np.int32)
    count = jnp.full(CLIENTS, examples, jnp.int32)
    return ClientData(jnp.asarray(x), jnp.asarray(y), count)


def ends(run_cohort: ClientMap) -> dict[str, Callable[..., Any]]:
    """What the two algorithms do once their clients are trained."""

    def local(stacked: Variables, kept: Masks, weights: Any, sparsity: Any) -> Any:
        def purge(shared: Any, mine: Variables) -> Any:
            kept, sparsity = shared
            m = pruning.prune(pruning.magnitude(mine), sparsity, within=kept)
            return masks.apply(m, mine), m

        pruned, votes = run_cohort(purge, (kept, sparsity), stacked)
        return aggregation.majority_vote_mean(pruned, votes, weights)

    def server(stacked: Variables, kept: Masks, weights: Any, sparsity: Any) -> Any:
        merged = aggregation.weighted_mean(stacked, weights)
        m = pruning.prune(pruning.magnitude(merged), sparsity, within=kept)
        return masks.apply(m, merged), m

    return {"fedsparsify_local": local, "fedsparsify_global": server}


def shares() -> dict[str, Any]:
    results = {}
    mesh = device_mesh()
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("clients"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    for name, (_, rounds, inner) in ROUNDS.items():
        run_cohort = sharded(mesh, inner())
        model = model_of(name)
        clients = jax.device_put(synthetic_clients(name), spread)
        stacked = jax.device_put(random_variables(name, (CLIENTS,)), spread)
        start = model.init(jax.random.key(0))
        more = jax.device_put(
            (masks.ones_like(start), clients.sizes, jnp.float32(SPARSITY)), whole
        )
        for algorithm, end in ends(run_cohort).items():
            build = getattr(algorithms, algorithm)
            built = build(model.apply, client_map=run_cohort, rounds=200)
            state = jax.device_put(built.init(jax.random.key(1), start), whole)
            keys = jax.device_put(jax.random.key(2), whole)
            step = jax.jit(built.step).lower(keys, state, clients).compile()
            finish = jax.jit(end).lower(stacked, *more).compile()
            players = {
                "end": functools.partial(finish, stacked, *more),
                "round": functools.partial(step, keys, state, clients),
            }
            seconds = timed(players, {"round": rounds, "end": 3 + rounds})
            label = f"{name}, {algorithm}"
            results[label] = summary(seconds)
            end_s, round_s = (results[label]["medians"][key] for key in players)
            print(
                f"{label:24} round {round_s:7.3f} s, purge + vote + merge {end_s:7.4f} "
                f"s: {end_s / round_s:6.2%} (goal <= {GOAL_SHARE:.0%})",
                flush=True,
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="prune,shares", help="which parts")
    parser.add_argument(
        "--repeat", type=int, default=3, help="sorts timed of each size"
    )
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    parts = {
        "prune": lambda: prune_against_sort(arguments.repeat),
        "shares": shares,
    }
    result: dict[str, Any] = {}
    for part in arguments.only.split(","):
        result[part] = parts[part]()
        if arguments.out:
            write_result(arguments.out, result)


if __name__ == "__main__":
    main()

"""What every algorithm promises, on unequal clients whose padding is NaN."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import algorithms, masks, models
from fedsparsify_jax.client_map import chunked, device_mesh, sharded
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.types import ClientData

TARGET = 0.6

# name: (builder, sparsity after round 3, None where it is an outcome)
METHODS: dict[str, tuple[Callable[..., Any], float | None]] = {
    "fedavg": (algorithms.fedavg, 0.0),
    "fedprox": (partial(algorithms.fedprox, mu=0.1), 0.0),
    "fedopt": (algorithms.fedopt, 0.0),
    "fedsparsify_global": (
        partial(algorithms.fedsparsify_global, final_sparsity=TARGET, rounds=3),
        TARGET,
    ),
    "fedsparsify_local": (
        partial(algorithms.fedsparsify_local, final_sparsity=TARGET, rounds=3),
        None,
    ),
    "fedsparsify_plus": (
        partial(algorithms.fedsparsify_plus, final_sparsity=TARGET, rounds=3),
        TARGET,
    ),
    "random": (
        partial(algorithms.random_pruning, final_sparsity=TARGET, rounds=3),
        TARGET,
    ),
    "one_shot": (
        partial(algorithms.one_shot, final_sparsity=TARGET, rounds=3, at=2),
        TARGET,
    ),
    "snip": (partial(algorithms.snip, final_sparsity=TARGET), TARGET),
    "grasp": (
        partial(algorithms.grasp, final_sparsity=TARGET, source="cohort"),
        TARGET,
    ),
    "synflow": (
        # Weights in series tie up to rounding once a unit has few inputs left.
        partial(algorithms.synflow, final_sparsity=0.3, iterations=5),
        0.3,
    ),
    "prunefl": (
        partial(algorithms.prunefl, interval=2, initial_adjustments=2),
        None,
    ),
    "prunefl_pinned": (
        partial(algorithms.prunefl, interval=2, final_sparsity=TARGET),
        TARGET,
    ),
    "prunefl_authors": (
        partial(algorithms.prunefl, interval=2, variant="authors", rounds=3),
        None,
    ),
    "feddst": (
        partial(algorithms.feddst, interval=1, final_sparsity=TARGET, rounds=6),
        TARGET,
    ),
}


class Normed(nn.Module):
    """A hidden layer with batch statistics: 5-6-3."""

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, valid: Any = None) -> Any:
        x = nn.Dense(6, use_bias=False)(x)
        mask = None if valid is None else valid[:, None]
        x = nn.BatchNorm(use_running_average=not train)(x, mask=mask)
        return nn.Dense(3)(nn.relu(x))


MODEL = models.from_linen(Normed(), (5,))
OPTIONS: dict[str, Any] = {"local_epochs": 1, "batch_size": 4, "learning_rate": 0.01}
KEYS = (3, 4, 5)


def run(algorithm: Any, step: Any, clients: Any, seed: int) -> tuple[list, list]:
    states = [algorithm.init(jax.random.key(seed), MODEL.init(jax.random.key(seed)))]
    infos = []
    for number in KEYS:
        key = jax.random.fold_in(jax.random.key(number), seed)
        state, info = step(key, states[-1], clients)
        states.append(state)
        infos.append(info)
    return states, infos


@pytest.fixture(params=METHODS)
def method(request: Any) -> tuple[Callable[..., Any], float | None]:
    builder, sparsity = METHODS[request.param]
    return partial(builder, MODEL.apply, **OPTIONS), sparsity


def check_contract(states: list, infos: list, sparsity: float | None) -> None:
    for state in states[1:]:
        chex.assert_trees_all_equal_shapes_and_dtypes(states[0], state)
        assert all(not leaf.weak_type for leaf in jax.tree.leaves(state))
        chex.assert_tree_all_finite(state)
        for kept in jax.tree.leaves(state.masks["batch_stats"]):
            assert kept.all()
        pruned = jax.tree.map(
            lambda kept, leaf: np.asarray(leaf)[~np.asarray(kept)],
            state.masks,
            state.variables,
        )
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(pruned))
    moved = jax.tree.map(
        lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))),
        states[0].variables["batch_stats"],
        states[-1].variables["batch_stats"],
    )
    assert all(jax.tree.leaves(moved))
    chex.assert_tree_all_finite(infos)
    assert [int(info.round) for info in infos] == [1, 2, 3]
    for state, info in zip(states[1:], infos, strict=True):
        counted = masks.sparsity(state.masks)
        np.testing.assert_allclose(info.sparsity, counted, rtol=1e-6)
    if sparsity is not None:
        total = 5 * 6 + 6 + 6 + 6 * 3 + 3
        kept = round(total * (1 - float(infos[-1].sparsity)))
        assert kept == total - int(sparsity * total)


def test_contract(method: Any, clients: Any) -> None:
    build, sparsity = method
    algorithm = build()
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(algorithm.step, n=1))
    states, infos = run(algorithm, step, clients, 0)
    check_contract(states, infos, sparsity)
    again, _ = run(algorithm, step, clients, 0)
    chex.assert_trees_all_equal(states[-1], again[-1])
    other, _ = run(algorithm, step, clients, 1)

    # Every seed at once, and the clients one after another over the devices' mesh.
    # Batch statistics of a single example amplify rounding by up to 1 / sqrt(eps).
    spread = build(client_map=sharded(device_mesh(), chunked(1)))
    seeds = jnp.arange(2)
    keys = jax.vmap(jax.random.key)(seeds)
    state = jax.vmap(lambda key: spread.init(key, MODEL.init(key)))(keys)
    batched = jax.jit(jax.vmap(spread.step, in_axes=(0, 0, None)))
    for number in KEYS:
        fold = partial(jax.random.fold_in, jax.random.key(number))
        # The reuse checker mistakes batched keys that are scanned over for a reuse.
        with jax.debug_key_reuse(False):
            state, _ = batched(jax.vmap(fold)(seeds), state, clients)
    for seed, expected in enumerate((states[-1], other[-1])):
        mine = jax.tree.map(lambda leaf, seed=seed: leaf[seed], state)
        chex.assert_trees_all_close(expected, mine, rtol=2e-3, atol=1e-4)


def test_a_traced_sparsity_makes_one_program_for_many(clients: Any) -> None:
    def sparsity_after_a_round(final: jax.Array) -> jax.Array:
        algorithm = algorithms.snip(MODEL.apply, final_sparsity=final, **OPTIONS)
        state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
        return algorithm.step(jax.random.key(1), state, clients)[1].sparsity

    found = jax.jit(jax.vmap(sparsity_after_a_round))(jnp.array([0.0, 0.5, 0.9]))
    np.testing.assert_allclose(found, [0.0, 31 / 63, 56 / 63], rtol=1e-6)


def test_three_rounds_of_a_convolutional_network(method: Any) -> None:
    """Batch statistics, dropout and convolutions under every method.

    Every round goes on without the third client and with half of the second's steps.
    """
    network = models.build(
        "cnn", input_shape=(8, 8, 1), num_classes=3, widths=(2, 2, 2), hidden=4
    )
    build, sparsity = method
    fails = Faults(dropout=jnp.array([0, 0, 1]), straggle=jnp.array([0, 1, 0]))
    build = partial(build.func, network.apply, *build.args[1:], **build.keywords)
    algorithm = build(faults=fails)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 5, 8, 8, 1)).astype(np.float32)
    clients = ClientData(
        jnp.asarray(images),
        jnp.asarray(rng.integers(0, 3, (3, 5)), jnp.int32),
        jnp.array([5, 2, 1], jnp.int32),
    )
    variables = network.init(jax.random.key(0))
    state, step = algorithm.init(jax.random.key(1), variables), jax.jit(algorithm.step)
    for number in KEYS:
        old = state
        state, info = step(jax.random.key(number), old, clients)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, old)
        counts = (info.merged, info.dropped, info.stragglers, info.rejected)
        assert tuple(map(int, counts)) == (2, 1, 1, 0)
    chex.assert_tree_all_finite((state.variables, info.loss))
    assert all(mask.all() for mask in jax.tree.leaves(state.masks["batch_stats"]))
    chex.assert_trees_all_equal(
        masks.apply(state.masks, state.variables), state.variables
    )
    if sparsity is not None:
        total = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        assert round(float(info.sparsity) * total) == int(sparsity * total)

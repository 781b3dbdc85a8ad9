"""One table of all algorithms against the properties that every one of them has.

A new algorithm is one row of `conformance_rows.ROWS`. Rows run on a network with batch
statistics and on clients of 7, 4, 1 and 6 examples, whose padding is huge. What the
compiled programs of the rows have in common is in test_conformance_programs.py.
"""

import functools
import inspect
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_build import (
    AS_FEDAVG,
    FIRST,
    LONG,
    NO_DRAW,
    PAPER,
    PARAMETERS,
    PART,
    ROUNDS,
    STATISTICS,
    build,
    compiled,
    entry,
    every_row,
    every_row_without_draw,
    keywords,
    run,
    start,
)
from conformance_rows import FINAL, ROWS, SHARED
from conftest import make_clients
from toy import round_keys, run_rounds

from fedsparsify_jax import masks, models, trees
from fedsparsify_jax.algorithms import registry
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.runner.storage.checkpoints import Checkpoints
from fedsparsify_jax.types import ClientData


def test_every_algorithm_has_a_row():
    assert {entry(name).name for name in ROWS} == set(registry.ALGORITHMS)


@every_row
def test_signatures(name):
    algorithm = build(name)
    assert list(inspect.signature(algorithm.init).parameters) == ["key", "variables"]
    names = ["key", "state", "clients"]
    assert list(inspect.signature(algorithm.step).parameters) == names


@every_row
def test_the_key_decides_everything(name, clients):
    algorithm, step = compiled(name)
    chex.assert_trees_all_equal(run(name, clients), run(name, clients))
    one, _ = step(jax.random.key(98), start(algorithm), clients)
    other, _ = step(jax.random.key(99), start(algorithm), clients)
    leaves = [jax.tree.leaves(state.variables["params"]) for state in (one, other)]
    assert not all(np.allclose(*pair) for pair in zip(*leaves, strict=True))


@every_row
def test_batch_statistics_move_and_are_never_pruned(name, clients):
    states, _ = run(name, clients)
    for state in states:
        assert all(np.all(kept) for kept in jax.tree.leaves(state.masks["batch_stats"]))
    first, last = (
        trees.named_leaves(s.variables["batch_stats"]) for s in (states[0], states[-1])
    )
    for (path, before), (_, after) in zip(first, last, strict=True):
        assert np.any(before != after), path


@every_row_without_draw
def test_the_order_of_the_clients_does_not_matter(name, clients):
    # One batch of 3 holds a whole client, so that no draw decides about the result.
    clients = clients._replace(sizes=jnp.array([3, 2, 1, 3], jnp.int32))
    order = jnp.array([2, 0, 3, 1])
    (*_, state), infos = run(name, clients)
    (*_, moved), moved_infos = run(name, trees.take(clients, order))
    chex.assert_trees_all_close(state.variables, moved.variables, atol=1e-5)
    chex.assert_trees_all_equal(state.masks, moved.masks)
    kept = trees.take(state.clients, order)
    chex.assert_trees_all_close(kept, moved.clients, atol=1e-5)
    for a, b in zip(infos, moved_infos, strict=True):
        np.testing.assert_allclose(a.loss, b.loss, atol=1e-5)
        np.testing.assert_array_equal(a.bytes_up[order], b.bytes_up)


@functools.cache
def fedavg_run(optimizations, **options):
    """The last state of FedAvg, compiled as the row beside it is."""
    del optimizations  # is in the cache's key
    algorithm = build("fedavg", **options)
    return run_rounds(
        jax.jit(algorithm.step), start(algorithm), make_clients(), round_keys(ROUNDS)
    )[0][-1]


@pytest.mark.parametrize("name", AS_FEDAVG)
def test_sparsity_zero_is_fedavg_bit_for_bit(name, clients, request):
    row, as_users = ROWS[name], name.startswith(PAPER)
    if as_users:  # the others quickly: what is to be the same is the arithmetic
        request.getfixturevalue("optimized")
    options = {**keywords(entry(name)), **row.options}
    shared = {k: v for k, v in options.items() if k in SHARED}
    dense = fedavg_run(as_users, **shared)
    algorithm = build(name, final=0.0)
    states, infos = run_rounds(
        jax.jit(algorithm.step), start(algorithm), clients, round_keys(ROUNDS)
    )
    last = {name: states[-1].variables[name] for name in dense.variables}
    if row.one_rounding_more:
        chex.assert_trees_all_close(last, dense.variables, atol=1e-6)
    else:
        chex.assert_trees_all_equal(last, dense.variables)
    assert float(infos[-1].sparsity) == 0.0


def _assert_zeros(algorithm, state):
    """What is pruned is zero in the model that is taken away."""
    model = algorithm.model(state)
    kept = trees.restricted(state.masks, model)
    chex.assert_trees_all_equal(masks.apply(kept, model), model)


@every_row
def test_pruned_weights_are_exactly_zero_and_stay_so(name, clients):
    states, _ = run(name, clients)
    algorithm, _ = compiled(name)
    for before, state in itertools.pairwise(states):
        _assert_zeros(algorithm, state)
        if ROWS[name].monotone:
            shrunk = masks.intersect(before.masks, state.masks)
            chex.assert_trees_all_equal(shrunk, state.masks)


def prunable_of(name):
    """The leaves that the sparsity of a row is of, in the end."""
    if ROWS[name].grows:
        return lambda path: path.startswith("params/") and "/head" not in path
    return masks.kernels_only if ROWS[name].counted == 32 else None


def pruned_of(target, total):
    """How many of `total` parameters a target sparsity prunes."""
    return math.floor(float(target) * total + 1e-4)


@every_row
def test_reported_sparsity_is_the_masks_and_the_target_where_exact(name, clients):
    row, (states, infos) = ROWS[name], run(name, clients)
    for state, info in zip(states[1:], infos, strict=True):
        leaves = masks.prunable_only(state.masks, prunable_of(name))
        if row.grows and info.round == 1:
            assert not any(leaf.any() for leaf in leaves[-2:])
            leaves[-2:] = jax.tree.leaves(state.masks["params"]["head"])
        flat = np.concatenate([np.ravel(leaf) for leaf in leaves])
        assert flat.size == row.counted
        assert float(info.sparsity) == pytest.approx(1 - flat.mean(), abs=1e-6)
        kept = sum(int(count) for count in info.kept.values())
        others = PARAMETERS - row.counted + STATISTICS + row.besides
        assert kept == flat.sum() + others
    if not {"final_sparsity", "levels"} & set(entry(name).parameters):
        assert float(infos[-1].sparsity) == 0.0
    if row.final is None:
        return
    assert float(infos[-1].target_sparsity) == pytest.approx(FINAL)
    assert float(infos[-1].sparsity) > 0.0
    if row.starts_dense:
        assert float(infos[0].sparsity) == 0.0
    for info in infos[row.exact_from - 1 :] if row.exact_from else ():
        pruned = pruned_of(info.target_sparsity, row.counted)
        assert round(float(info.sparsity) * row.counted) == pruned


@every_row
def test_bytes_are_the_authors_formula(name, clients):
    states, infos = run(name, clients, **PART[name])
    size = len(infos[-1].cohort)
    travels = ROWS[name].masks_travel
    leaves = jax.tree.leaves(states[-1].masks if travels else states[-1].variables)
    sent = sum(int((leaf != 0).sum()) for leaf in leaves)
    if ROWS[name].sent_the_same:
        assert infos[-1].bytes_down.tolist() == [4 * sent] * size
    else:
        assert (infos[-1].bytes_down > 0).all()
    assert infos[-1].bytes_up.shape == (size,)
    total = PARAMETERS + STATISTICS + ROWS[name].besides
    up = int(infos[-1].bytes_up.max())
    assert int(infos[0].bytes_up.max()) <= 4 * (total + ROWS[name].sends_more)
    if name == "fedsparsify-local":  # every client's purge is exact
        assert up <= 4 * (total - pruned_of(FINAL, PARAMETERS))
    if name == "fedsparsify-global":  # sent under the masks of the round before
        pruned = round(float(infos[-2].sparsity) * PARAMETERS)
        assert up <= 4 * (total - pruned)


@every_row
def test_a_client_with_one_example_trains_and_stays_finite(name):
    states, infos = run(name, make_clients((1, 7, 1, 1)))
    chex.assert_tree_all_finite((states[-1].variables, infos[-1].loss))


@pytest.mark.parametrize("name", [name for name in NO_DRAW if name in FIRST])
def test_clients_of_one_example_and_a_cohort_of_one(name):
    states, infos = run(name, make_clients((1, 1, 1, 1)), participation=0.25)
    assert infos[-1].cohort.shape == (1,)
    chex.assert_tree_all_finite((states[-1].variables, infos[-1].loss))
    if ROWS[name].final is not None:
        assert float(infos[-1].sparsity) > 0.4


@every_row
def test_what_fills_the_padding_does_not_matter(name, clients):
    real = jnp.arange(clients.y.shape[1])[None, :] < clients.sizes[:, None]
    for fill in (0.0, jnp.nan):
        x = jnp.where(real[..., None], clients.x, fill)
        y = jnp.where(real, clients.y, 0)
        chex.assert_trees_all_equal(
            run(name, clients), run(name, ClientData(x, y, clients.sizes))
        )


@every_row
def test_save_restore_continue_equals_uninterrupted(name, clients, tmp_path):
    states, _ = run(name, clients)
    algorithm, step = compiled(name)
    first, *later = round_keys(ROUNDS)
    state, _ = step(first, start(algorithm), clients)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore(1, start(algorithm))
    # On the device that they are restored to, arrays would be compiled for once more.
    state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), state)
    for key in later:
        state, _ = step(key, state, clients)
    chex.assert_trees_all_equal(state, states[-1])


@pytest.mark.parametrize("name", LONG)
def test_failing_clients_and_a_convolutional_network(name):
    """Batch statistics, dropout and convolutions under every method.

    Every round goes on without the third client and with half of the second's steps.
    """
    network = models.build(
        "cnn", input_shape=(4, 4, 1), num_classes=3, widths=(2, 2), hidden=4
    )
    fails = Faults(dropout=jnp.array([0, 0, 1]), straggle=jnp.array([0, 1, 0]))
    options = {"num_clients": 3, "batch_size": 4, "local_epochs": 1}
    algorithm = build(name, model=network, faults=fails, learning_rate=0.01, **options)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 5, 4, 4, 1)).astype(np.float32)
    clients = ClientData(
        jnp.asarray(images),
        jnp.asarray(rng.integers(0, 3, (3, 5)), jnp.int32),
        jnp.array([5, 2, 1], jnp.int32),
    )
    variables = network.init(jax.random.key(0))
    state = algorithm.init(jax.random.key(1), variables)
    states, infos = run_rounds(
        jax.jit(algorithm.step), state, clients, round_keys(ROUNDS)
    )
    for info in infos:
        counts = (info.merged, info.dropped, info.stragglers, info.rejected)
        assert tuple(map(int, counts)) == (2, 1, 1, 0)
    for old, state in itertools.pairwise(states):
        chex.assert_trees_all_equal_shapes_and_dtypes(state, old)
    chex.assert_tree_all_finite((state.variables, info.loss))
    assert all(mask.all() for mask in jax.tree.leaves(state.masks["batch_stats"]))
    _assert_zeros(algorithm, state)
    counted = masks.prunable_only(variables, prunable_of(name))
    total = sum(leaf.size for leaf in counted)
    if ROWS[name].final is not None and ROWS[name].exact_from:
        assert round(float(info.sparsity) * total) == pruned_of(FINAL, total)

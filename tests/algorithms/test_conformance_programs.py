"""The conformance table: how the rounds of all algorithms compile and divide."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_build import (
    ENGINE,
    FIRST,
    LONG,
    MODEL,
    NO_DRAW,
    PAPER,
    PART,
    ROUNDS,
    TRACES,
    build,
    compiled,
    every_row,
    run,
    start,
)
from conformance_rows import FINAL, ROWS
from toy import round_keys, run_rounds

from fedsparsify_jax import client_map, trees
from fedsparsify_jax.types import RoundInfo, State

SHARDED = client_map.sharded(
    client_map.device_mesh(jax.devices()[:2]), inner=client_map.chunked(1)
)


def scan_rounds(algorithm, key, state, clients):
    """All rounds in one program, each traced once."""

    def body(state, t):
        return algorithm.step(jax.random.fold_in(key, t), state, clients)

    return jax.lax.scan(body, state, jnp.arange(ROUNDS))


@every_row
def test_one_trace_carries_out_all_rounds(name, clients):
    algorithm, step = compiled(name)
    before, variables = len(TRACES), MODEL.init(jax.random.key(2))
    state = start(algorithm)
    assert isinstance(state, State)
    chex.assert_trees_all_equal_shapes(state.masks, state.variables)
    assert all(leaf.dtype == bool for leaf in jax.tree.leaves(state.masks))
    for t, key in enumerate(round_keys(ROUNDS), start=1):
        new, info = step(key, state, clients)
        assert isinstance(info, RoundInfo)
        chex.assert_trees_all_equal_structs(new, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(new))
        assert int(new.round) == int(info.round) == t
        chex.assert_tree_all_finite((new, info))
        state = new
    assert step._cache_size() <= 1  # 0 after thousands of others in this process
    assert len(TRACES) <= before + 1
    # The caller's own model is copied, so that the state may be donated.
    given = algorithm.init(jax.random.key(1), variables)
    for leaf in jax.tree.leaves(given):
        leaf.delete()
    chex.assert_trees_all_equal(variables, MODEL.init(jax.random.key(2)))


@every_row
def test_the_state_may_be_donated(name, clients):
    algorithm = build(name)
    state = start(algorithm)
    step = jax.jit(algorithm.step, donate_argnums=1)
    with jax.debug_nans(False):  # under which nothing is donated
        # A buffer that no result takes the place of is a warning, and so an error.
        text = step.lower(jax.random.key(3), state, clients).as_text()
        assert text.count("tf.aliasing_output") == len(jax.tree.leaves(state))
        if name not in PAPER:
            return
        expected, _ = compiled(name)[1](jax.random.key(3), state, clients)
        new, _ = step(jax.random.key(3), state, clients)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    chex.assert_trees_all_equal(new, expected)


def in_bits(tree, dtype):
    """The tree with its floats in another dtype."""
    floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
    return jax.tree.map(lambda a: a.astype(dtype) if floating(a) else a, tree)


@pytest.mark.parametrize(
    ("name", "bits", "of_data"),
    # Those whose bits differ most; the engine, which all rows share, has the others.
    [(name, "float64", "float32") for name in ROWS]
    + [(name, "bfloat16", "float64") for name in ROWS]
    + [(name, "float64", "float64") for name in ENGINE]
    + [(name, "bfloat16", "float32") for name in ENGINE]
    + [
        (name, bits, of_data)
        for name in ENGINE
        for bits in ("float32", "float16")
        for of_data in ("float32", "float64")
    ],
)
def test_64_bits_and_16_change_no_dtype_of_the_state(name, bits, of_data, clients):
    with jax.enable_x64(True):
        algorithm = build(name)
        variables = in_bits(MODEL.init(jax.random.key(2)), bits)
        state = algorithm.init(jax.random.key(1), variables)
        data, key = in_bits(clients, of_data), jax.random.key(3)
        new, info = jax.eval_shape(algorithm.step, key, state, data)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
        kinds = {leaf.dtype.name for leaf in jax.tree.leaves(info)}
        assert kinds == {"int32", "uint32", "float32"}


@pytest.mark.parametrize(
    ("name", "over"),
    [(name, "one device") for name in ENGINE] + [(name, "mesh") for name in LONG],
)
def test_vmap_over_seeds_equals_a_loop(name, over, clients):
    together = build(name, **({"client_map": SHARDED} if over == "mesh" else {}))
    alone, step = compiled(name)

    def seeds():
        return jax.random.split(jax.random.key(7), 3)

    def begin(algorithm, seed):
        init_key, model_key, round_key = jax.random.split(seed, 3)
        return algorithm.init(init_key, MODEL.init(model_key)), round_key

    @jax.jit
    @jax.vmap
    def train(seed):
        state, round_key = begin(together, seed)
        return scan_rounds(together, round_key, state, clients)

    # The reuse checker mistakes batched keys that are scanned over for a reuse.
    with jax.debug_key_reuse(over != "mesh"):
        scanned = train(seeds())
    for number, seed in enumerate(seeds()):
        state, round_key = begin(alone, seed)
        keys = [jax.random.fold_in(round_key, t) for t in range(ROUNDS)]
        (*_, last), infos = run_rounds(step, state, clients, keys)
        expected = last, jax.tree.map(lambda *rows: np.stack(rows), *infos)
        chex.assert_trees_all_close(trees.take(scanned, number), expected, atol=1e-5)


@pytest.mark.parametrize("name", FIRST)
def test_all_strategies_agree(name, clients):
    # Of three clients, chunks of two and two devices have one left over, and of four,
    # chunks of three.
    # Other rows are sharded by the test before this one.
    (*_, expected), infos = run(name, clients, **PART[name])
    chunked = client_map.chunked(2 if name in ENGINE else 3)
    for strategy in (chunked, SHARDED) if name in ENGINE else (chunked,):
        (*_, state), found = run(name, clients, client_map=strategy, **PART[name])
        found, expected_infos = jax.tree.map(np.asarray, (found, infos))
        chex.assert_trees_all_close(state, expected, atol=1e-5)
        chex.assert_trees_all_close(found, expected_infos, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NO_DRAW if name in FIRST])
def test_numbers_may_be_traced_and_rounds_scanned(name, clients):
    def train(final, rate):
        algorithm = build(name, final=final, learning_rate=rate)
        return scan_rounds(algorithm, jax.random.key(1), start(algorithm), clients)

    finals, rates = jnp.array([0.0, FINAL]), jnp.array([0.1, 0.3])
    together, alone = jax.jit(jax.vmap(train))(finals, rates), jax.jit(train)
    for number in range(2):
        expected = alone(finals[number], rates[number])
        chex.assert_trees_all_close(trees.take(together, number), expected, atol=1e-5)
    # The last of them has the numbers of `build`.
    states, infos = run(name, clients)
    chex.assert_trees_all_close(expected[0], states[-1], atol=1e-6)
    assert expected[1].round.tolist() == [info.round for info in infos] == [1, 2, 3]


def test_a_traced_sparsity_prunes_that_share(clients):
    def sparsity_after_a_round(final):
        algorithm = build("snip", final=final)
        _, info = algorithm.step(jax.random.key(1), start(algorithm), clients)
        return info.sparsity

    reported = jax.jit(jax.vmap(sparsity_after_a_round))(jnp.array([0.0, 0.5, 0.9]))
    np.testing.assert_allclose(reported, [0.0, 21 / 43, 38 / 43], rtol=1e-6)

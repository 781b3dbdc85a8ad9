"""The look-ahead: every round is a plain round from a point that NumPy makes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP, PURGED, run_rounds

from fedsparsify_jax.engine.wrappers.faults import Faults, within
from fedsparsify_jax.engine.wrappers.lookahead import beyond
from fedsparsify_jax.types import nothing_more

ROUNDS, FACTOR = 3, 0.4


def play(algorithm, clients):
    """The states from the start on."""
    state = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    keys = jax.random.split(jax.random.key(3), ROUNDS)
    return run_rounds(jax.jit(algorithm.step), state, clients, keys)[0]


@pytest.mark.parametrize("average", [None, 0.7])
@pytest.mark.parametrize("name", PURGED)
def test_rounds_are_plain_ones_from_beyond_the_model(name, average, clients):
    ahead = PURGED[name](server_lookahead=FACTOR, server_ema=average)
    states = play(ahead, clients)
    assert ahead.finish is nothing_more
    plain = PURGED[name]()
    step, state = jax.jit(plain.step), None
    keys = jax.random.split(jax.random.key(3), ROUNDS)
    last = states[0]
    for key, before, after in zip(keys, states, states[1:], strict=False):
        start = jax.tree.map(
            lambda w, old, mask: np.float32(w + FACTOR * mask * (np.float64(w) - old)),
            before.variables,
            last.variables,
            jax.tree.map(np.asarray, before.masks),
        )
        if state is None:
            state = plain.init(jax.random.key(1), MLP.init(jax.random.key(2)))
        state, _ = step(key, state._replace(variables=start), clients)
        chex.assert_trees_all_close(after.variables, state.variables, atol=1e-6)
        chex.assert_trees_all_equal(after.masks, state.masks)
        state, last = state._replace(variables=after.variables), before
    pruned = jax.tree.map(lambda w, m: w[~m], states[-1].variables, states[-1].masks)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(pruned))
    if average is None:
        chex.assert_trees_all_equal(ahead.model(states[-1]), states[-1].variables)


def test_it_goes_elsewhere_and_a_factor_of_zero_does_not(clients):
    plain = play(PURGED["global"](), clients)[-1].variables
    none = play(PURGED["global"](server_lookahead=0.0), clients)[-1].variables
    chex.assert_trees_all_equal(plain, none)
    far = play(PURGED["global"](server_lookahead=FACTOR), clients)[-1].variables
    distance = jax.tree.map(lambda a, b: np.abs(a - b).max(), far, plain)
    assert max(jax.tree.leaves(distance)) > 1e-3


@pytest.mark.parametrize("average", [None, 0.7])
def test_a_round_without_uploads_moves_nothing(average, clients):
    """The second round has nobody; neither model nor look-ahead changes."""
    nobody = Faults(dropout=within(1.0, 2, 2))
    algorithm = PURGED["global"](
        server_lookahead=FACTOR, server_ema=average, faults=nobody
    )
    first, second = play(algorithm, clients)[1:3]
    chex.assert_trees_all_equal(first.variables, second.variables)
    chex.assert_trees_all_equal(first.server, second.server)


def test_pruned_weights_and_other_collections_stay():
    w = {"params": jnp.array([1.0, 0.0]), "batch_stats": jnp.array([0.1, 0.1])}
    old = {"params": jnp.array([0.5, 0.0]), "batch_stats": jnp.array([2.0, 2.0])}
    kept = {"params": jnp.array([True, False]), "batch_stats": jnp.array([True, True])}
    start = beyond(old, w, kept, 0.5)
    np.testing.assert_array_equal(start["params"], [1.25, 0.0])
    np.testing.assert_array_equal(start["batch_stats"], w["batch_stats"])


@pytest.mark.parametrize("factor", [-0.1, 1, float("nan")])
def test_impossible_factors(factor):
    with pytest.raises(ValueError, match=f"server_lookahead is {factor}: "):
        PURGED["global"](server_lookahead=factor)

"""The moving average of the global model, against NumPy and beside the plain run."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP, PURGED, SMALL, run_rounds, serving

from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.engine import engine
from fedsparsify_jax.engine.wrappers import ema
from fedsparsify_jax.method import Method
from fedsparsify_jax.types import nothing_more

ROUNDS, DECAY = 3, 0.7


def play(algorithm, clients):
    """The states after every round."""
    state = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    keys = jax.random.split(jax.random.key(3), ROUNDS)
    return run_rounds(jax.jit(algorithm.step), state, clients, keys)[0][1:]


def oracle(states):
    """a_t from the definition, in float64."""
    average = None
    for t, state in enumerate(states, start=1):
        now = jax.tree.map(np.float64, state.variables)
        rate = (1 - DECAY) / (1 - DECAY**t)
        average = now if t == 1 else average
        average = jax.tree.map(
            lambda old, new, mask, rate=rate: mask * (old + rate * (new - old)),
            average,
            now,
            jax.tree.map(np.asarray, state.masks),
        )
    return average


@pytest.mark.parametrize("name", PURGED)
def test_the_average_is_numpys_and_training_is_untouched(name, clients):
    plain = play(PURGED[name](), clients)
    algorithm = PURGED[name](server_ema=DECAY)
    smooth = play(algorithm, clients)
    for one, other in zip(plain, smooth, strict=True):
        chex.assert_trees_all_equal(one.variables, other.variables)
        chex.assert_trees_all_equal(one.masks, other.masks)
    model = algorithm.model(smooth[-1])
    chex.assert_trees_all_close(model, oracle(plain), atol=1e-6)
    chex.assert_trees_all_equal(algorithm.model(smooth[0]), plain[0].variables)
    for mask, leaf in zip(*map(jax.tree.leaves, (plain[-1].masks, model)), strict=True):
        assert not np.any(np.asarray(leaf)[~np.asarray(mask)])
    assert algorithm.finish is nothing_more


def test_under_shrinking_masks_it_is_the_weighted_mean():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 3)).astype(np.float32)
    average = jnp.full(3, 1e9)  # what was there before round 1 does not matter
    for t, row in enumerate(rows, start=1):
        average = ema.moving_average(average, jnp.asarray(row), DECAY, t)
    weights = DECAY ** np.arange(4, -1, -1.0)
    np.testing.assert_allclose(average, weights @ rows / weights.sum(), rtol=1e-5)


def test_decay_zero_and_counters():
    tree = {"w": jnp.array([1.5]), "count": jnp.array([7])}
    old = {"w": jnp.array([-3.0]), "count": jnp.array([2])}
    for t in (1, 5):
        found = ema.moving_average(old, tree, 0.0, t)
        chex.assert_trees_all_equal(found, tree)


def test_own_model_and_post_training_see_the_average(clients):
    """A method that keeps server state, doubles its model and ends by adding one."""

    def finish(key, state, data):
        assert state.server.shape == ()  # without the average
        raised = jax.tree.map(lambda leaf: leaf + 1, state.variables)
        return state._replace(variables=raised)

    def count(key, variables, masks, uploads, context):
        return variables, masks, context.server + 1

    server = serving(count, lambda variables, masks: jnp.float32(0))
    algorithm = engine(
        MLP.apply, Method(aggregate=aggregate("mean"), server=server), **SMALL
    )
    algorithm = ema.with_ema(
        DECAY,
        algorithm._replace(
            model=lambda state: jax.tree.map(lambda leaf: 2 * leaf, state.variables),
            finish=finish,
        ),
    )
    states = play(algorithm, clients)
    assert float(states[-1].server.method) == ROUNDS
    expected = oracle(states)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, expected)
    chex.assert_trees_all_close(algorithm.model(states[-1]), doubled, atol=1e-6)
    done = algorithm.finish(jax.random.key(4), states[-1], clients)
    raised = jax.tree.map(lambda leaf: 2 * (leaf + 1), expected)
    chex.assert_trees_all_close(algorithm.model(done), raised, atol=1e-6)
    chex.assert_trees_all_equal_structs(done, states[-1])


@pytest.mark.parametrize("decay", [-0.1, 1, 1.5])
def test_impossible_decays(decay):
    with pytest.raises(ValueError, match=f"server_ema is {decay}: "):
        PURGED["global"](server_ema=decay)

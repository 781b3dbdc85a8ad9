"""FedSparsify-Plus against NumPy, and what it promises of bytes and defaults."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpy_federation as oracle
import pytest
from oracle_draws import batch_orders, to_layers
from toy import run_rounds

from fedsparsify_jax import algorithms, models, schedules
from fedsparsify_jax.algorithms.fedsparsify_plus import importance
from fedsparsify_jax.engine.wrappers.lookahead import Ahead
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve

COUNTS, ROUNDS, FINAL, RATE, MOMENTUM = (7, 4, 1, 6), 4, 0.6, 0.1, 0.5
SHARE, DECAY, LOOKAHEAD = 0.75, 0.6, 0.3


def sparsity(t):
    """Cubic, with the last purge in round u T."""
    left = np.clip(1 - (t - 1) / (SHARE * ROUNDS - 1), 0, 1)
    return FINAL * (1 - left**3)


def replay(variables, clients, round_keys):
    """Models, masks and averages of all rounds."""
    layers = to_layers(variables)
    flat = oracle.flatten(layers)
    zeros = oracle.unflatten(np.zeros_like(flat), layers)
    masks = oracle.unflatten(np.ones_like(flat), layers)
    average, before, history = flat, flat, []
    weights = np.array(COUNTS, float)
    for t, key in enumerate(round_keys, start=1):
        orders = batch_orders(key, np.arange(4), COUNTS)
        now = oracle.flatten(layers)
        ahead = now + LOOKAHEAD * (now - before) * oracle.flatten(masks)
        start, before = oracle.unflatten(ahead, layers), now
        merged = oracle.mean(
            [
                oracle.train(
                    start,
                    masks,
                    np.float64(clients.x[client, :count]),
                    np.asarray(clients.y[client, :count]),
                    orders[client],
                    3,
                    RATE,
                    MOMENTUM,
                    zeros,
                )[0]
                for client, count in enumerate(COUNTS)
            ],
            weights,
        )
        new = oracle.flatten(merged)
        scores = oracle.unflatten(np.abs(new * (new - flat)), layers)
        masks = oracle.keep_largest(scores, masks, sparsity(t))
        layers = oracle.apply_masks(merged, masks)
        rate = (1 - DECAY) / (1 - DECAY**t)
        average = average + rate * (oracle.flatten(layers) - average)
        average = average * oracle.flatten(masks)
        history.append((oracle.flatten(layers), oracle.flatten(masks), average))
    return history


def test_four_rounds_against_numpy(clients):
    model = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(6,))
    algorithm = algorithms.fedsparsify_plus(
        model.apply,
        final_sparsity=FINAL,
        rounds=ROUNDS,
        purge_until=SHARE,
        server_ema=DECAY,
        server_lookahead=LOOKAHEAD,
        learning_rate=RATE,
        momentum=MOMENTUM,
        local_epochs=2,
        batch_size=3,
    )
    variables = model.init(jax.random.key(5))
    state = algorithm.init(jax.random.key(0), variables)
    round_keys = list(jax.random.split(jax.random.key(6), ROUNDS))
    step = jax.jit(algorithm.step)
    (_, *states), infos = run_rounds(step, state, clients, round_keys)
    with jax.debug_key_reuse(False):  # to replay the run is to use its keys again
        history = replay(variables, clients, round_keys)
    for now, info, (layers, masks, average) in zip(states, infos, history, strict=True):
        found = oracle.flatten(to_layers(now.variables))
        np.testing.assert_allclose(found, layers, atol=2e-5)
        np.testing.assert_array_equal(oracle.flatten(to_layers(now.masks)), masks)
        taken = oracle.flatten(to_layers(algorithm.model(now)))
        np.testing.assert_allclose(taken, average, atol=2e-5)
        assert float(info.sparsity) == pytest.approx(1 - masks.mean(), abs=1e-6)
    assert [info.sparsity for info in infos[2:]] == [infos[2].sparsity] * 2


def test_weights_that_never_move_go_first():
    variables = {"params": {"w": jnp.array([5.0, 0.1, -0.3])}}
    first = {"params": {"w": jnp.array([5.0, -0.4, -0.1])}}
    scores = importance(variables, first)["params"]["w"]
    np.testing.assert_allclose(scores, [0.0, 0.05, 0.06], rtol=1e-6)


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("rounds", [5, 40, 200])
def test_every_round_is_at_least_as_sparse_as_globals(share, rounds):
    t = np.arange(1, rounds + 1)
    own = schedules.polynomial(0.95, end=share * rounds)
    usual = schedules.polynomial(0.95, end=rounds)
    assert np.all(own(t) >= usual(t))


def test_defaults_are_its_own_unless_given():
    plus = TrainConfig(algorithm="fedsparsify_plus")
    assert resolve(plus).momentum == 0.9
    given = TrainConfig(algorithm="fedsparsify_plus", momentum=0.5)
    assert resolve(given).momentum == 0.5
    assert resolve(TrainConfig()).momentum == 0.0


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({}, None),
        ({"cohort_sampling": "representative"}, 0.5),
        ({"cohort_sampling": "representative", "server_lookahead": 0.2}, 0.2),
        ({"server_lookahead": 0.2}, 0.2),
    ],
)
def test_representative_cohorts_look_ahead(options, factor, clients):
    """Two rounds: the second starts where the first one's move leads."""
    model = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(6,))
    fixed = {"num_classes": 3, "local_epochs": 1, "rounds": ROUNDS}
    made = algorithms.fedsparsify_plus(model.apply, **fixed, **options)
    same = algorithms.fedsparsify_plus(
        model.apply, **fixed, **(options | {"server_lookahead": factor})
    )
    runs = []
    for algorithm in (made, same):
        state = algorithm.init(jax.random.key(0), model.init(jax.random.key(5)))
        keys = jax.random.split(jax.random.key(6), 2)
        runs.append(run_rounds(jax.jit(algorithm.step), state, clients, keys)[0][-1])
    chex.assert_trees_all_equal(*runs)
    assert isinstance(runs[0].server.method, Ahead) == (factor is not None)


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_shares_of_the_rounds_that_cannot_be(share):
    with pytest.raises(ValueError, match=f"purge_until is {share}: "):
        algorithms.fedsparsify_plus(lambda *_, **__: None, purge_until=share)

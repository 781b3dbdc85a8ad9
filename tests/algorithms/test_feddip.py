"""FedDIP: whole rounds against NumPy, its penalty, and what is sent."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP, RATE, apply_fn, round_keys, run_rounds, squared_error

from fedsparsify_jax import algorithms
from fedsparsify_jax.algorithms.feddip import penalty_weight
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.types import ClientData

W = np.array([[1.0, -2.0, 3.0, -0.5], [2.5, 0.7, -1.5, 0.2]])
TARGETS = np.array([W + 0.6, W[:, ::-1]])
SIZES = np.array([2, 1])  # examples of the two clients, all of one target
EPOCHS, ROUNDS, START, FINAL, INTERVAL = 2, 6, 0.25, 0.75, 2


def played(**options):
    settings = {
        "rounds": ROUNDS,
        "initial_sparsity": START,
        "final_sparsity": FINAL,
        "interval": INTERVAL,
        "learning_rate": RATE,
        "local_epochs": EPOCHS,
        "batch_size": 1,
        "loss_fn": squared_error,
        **options,
    }
    algorithm = algorithms.feddip(apply_fn, **settings)
    y = np.repeat(TARGETS[:, None], 2, axis=1).astype(np.float32)
    data = ClientData(jnp.zeros((2, 2, 1)), jnp.asarray(y), jnp.asarray(SIZES))
    state = algorithm.init(
        jax.random.key(0), {"params": {"w": jnp.asarray(W, jnp.float32)}}
    )
    return run_rounds(jax.jit(algorithm.step), state, data, round_keys(ROUNDS))


def target(t):
    return FINAL + (START - FINAL) * (1 - INTERVAL * (t // INTERVAL) / ROUNDS) ** 3


def strength(xi, t):
    """The published code's list of weights, its rounds from 0, for 20 segments."""
    steps = [0.0, *(xi / 2 + (xi - xi / 2) / 19 * i for i in range(19))]
    return steps[20 * (t - 1) // ROUNDS]


def oracle(first, xi, variant):
    mask, w = first, W * first
    for t in range(1, ROUNDS + 1):
        trained = []
        for y, size in zip(TARGETS, SIZES, strict=True):
            local = w.copy()
            for _ in range(EPOCHS * size):
                used = local * mask
                g = 2 * (used - y) + strength(xi, t) * used / np.linalg.norm(used)
                local = local - RATE * g
            trained.append(local)
        w = np.tensordot(SIZES / SIZES.sum(), np.array(trained), 1)
        if t % INTERVAL == 0:
            kept = W.size - int(np.floor(target(t) * W.size + 1e-6))
            inside = mask if variant == "authors" else np.ones(W.shape, bool)
            order = np.argsort(-np.where(inside, np.abs(w), -1).ravel(), kind="stable")
            mask = np.zeros(W.size, bool)
            mask[order[:kept]] = True
            mask = mask.reshape(W.shape)
        w = w * mask
        yield w, mask


@pytest.mark.parametrize("xi", [0.0, 0.8])
@pytest.mark.parametrize("variant", ["published", "authors"])
def test_rounds_are_numpys(variant, xi):
    states, infos = played(variant=variant, xi=xi)
    first = states[1].masks["params"]["w"]  # which round 1 does not choose anew
    assert first.sum() == 6
    masks = [first]
    for state, info, (w, mask) in zip(
        states[1:], infos, oracle(first, xi, variant), strict=True
    ):
        np.testing.assert_array_equal(state.masks["params"]["w"], mask)
        np.testing.assert_allclose(
            state.variables["params"]["w"], w, rtol=1e-5, atol=1e-6
        )
        assert info.bytes_up.tolist() == [4 * 8] * 2  # dense
        assert info.bytes_down.tolist() == [4 * mask.sum()] * 2
        masks.append(mask)
    came_back = any((new & ~old).any() for old, new in itertools.pairwise(masks))
    assert came_back == (variant == "published")


@pytest.mark.parametrize("rounds", [20, 60, 1000])
def test_the_penaltys_weight_is_that_of_the_published_code(rounds):
    """Its list: a twentieth of zeros, then 5e-4 in steps of a nineteenth of 5e-4."""
    steps = [0.0, *(5e-4 + 5e-4 / 19 * i for i in range(19))]
    expected = np.repeat(steps, rounds // 20)
    found = jax.vmap(lambda t: penalty_weight(1e-3, t, rounds))(jnp.arange(rounds) + 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_no_penalty_and_no_sparsity_are_fedavg_bit_for_bit(clients, optimized):
    shared = {"num_clients": 4, "local_epochs": 2, "batch_size": 3}
    last = []
    for algorithm in (
        algorithms.feddip(
            MLP.apply,
            **{"final_sparsity": 0.0, "initial_sparsity": 0.0, "xi": 0.0, "rounds": 3},
            **shared,
        ),
        algorithms.fedavg(MLP.apply, **shared),
    ):
        state = algorithm.init(jax.random.key(0), MLP.init(jax.random.key(1)))
        states, _ = run_rounds(jax.jit(algorithm.step), state, clients, round_keys(3))
        last.append(states[-1].variables)
    chex.assert_trees_all_equal(*last)


def test_a_layer_that_is_pruned_away_has_no_penalty_and_a_finite_gradient(clients):
    """The output layer starts at zero: its norm has no slope, and no NaN either."""
    algorithm = algorithms.feddip(
        MLP.apply, final_sparsity=0.9, xi=1.0, interval=1, rounds=2, learning_rate=0.1
    )
    variables = MLP.init(jax.random.key(1))
    head = jax.tree.map(jnp.zeros_like, variables["params"]["Dense_1"])
    variables = {"params": variables["params"] | {"Dense_1": head}}
    state = algorithm.init(jax.random.key(0), variables)
    states, infos = run_rounds(jax.jit(algorithm.step), state, clients, round_keys(2))
    chex.assert_tree_all_finite((states[-1].variables, infos[-1].loss))


def test_its_own_first_sparsity_is_the_shells_default():
    config = resolve(TrainConfig(algorithm="feddip"))
    assert (config.initial_sparsity, config.prunable) == (0.5, "kernels")
    assert resolve(TrainConfig()).initial_sparsity == 0.0


@pytest.mark.parametrize(
    "options, line",
    [
        ({"interval": 0}, "interval is 0: it must be at least 1 round"),
        ({"xi": -1.0}, "xi is -1.0: it must be at least 0"),
        ({"variant": "other"}, "unknown variant 'other'"),
        ({"powerprop": 1.5}, "powerprop does not go with"),
    ],
)
def test_what_cannot_be_is_refused(options, line):
    with pytest.raises(ValueError, match=line):
        algorithms.feddip(apply_fn, **options)

"""Gradients beside the weights: steps of NumPy, and rounds like those without."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import (
    DATA,
    MLP,
    RATE,
    build,
    mean,
    round_keys,
    run_rounds,
    weights,
)

from fedsparsify_jax import algorithms
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.engine.sweeps import over_trials, stack_states
from fedsparsify_jax.method import GradientTransform, Method

PLAIN = Method(aggregate("mean"))
START = np.array([1.5, 0.5, 0.0])
KEPT = np.array([True, True, False])
TARGETS = (1.0, 3.0)
STEPS, RADIUS = 3, 0.05
SPARSE = {"final_sparsity": 0.6, "rounds": 3}
ENGINE = {"learning_rate": 0.1, "local_epochs": 2, "batch_size": 4, "num_clients": 4}


def cubed(outputs, y):
    """A loss whose gradient is no line, |w - y|^4 / 4."""
    return 0.25 * jnp.sum((outputs - y[:, None]) ** 4, axis=-1)


def gradient(w, target):
    return (w - target) ** 3


def moved(point, w, target, last):
    """Where the gradient of a step is taken."""
    if point == "past":
        return w - RADIUS * KEPT * last
    g = KEPT * gradient(w, target)
    return w - RADIUS * g if point == "fresh" else w + RADIUS * g / np.linalg.norm(g)


def numpys(point, rounds, rate=0.01):
    w, loss = START, None
    for _ in range(rounds):
        clients, losses = [], []
        for target in TARGETS:
            w_k, last = w, np.zeros(3)
            for _ in range(STEPS):
                at = moved(point, w_k, target, last)
                measured = at if point == "past" else w_k
                losses.append(0.25 * ((measured - target) ** 4).sum())
                last = gradient(at, target)
                w_k = KEPT * (w_k - rate * last)
            clients.append(w_k)
        w, loss = np.mean(clients, axis=0), np.mean(losses)
    return w, loss


def first_state(algorithm, start=START, kept=KEPT):
    """The state of round 0 under masks."""
    state = algorithm.init(
        jax.random.key(0), {"params": {"w": jnp.asarray(start, jnp.float32)}}
    )
    return state._replace(masks={"params": {"w": jnp.asarray(kept)}})


@pytest.mark.parametrize("point", ["past", "fresh", "sam"])
def test_rounds_are_numpys_and_pruned_weights_stay_zero(point):
    algorithm = build(
        PLAIN,
        loss_fn=cubed,
        learning_rate=0.01,
        local_epochs=STEPS,
        gradient_point=point,
        gradient_radius=RADIUS,
    )
    states, infos = run_rounds(
        jax.jit(algorithm.step), first_state(algorithm), DATA, round_keys(2)
    )
    w, loss = numpys(point, rounds=2)
    np.testing.assert_allclose(weights(states[-1]), w, rtol=1e-5)
    assert weights(states[-1])[2] == 0
    np.testing.assert_allclose(np.mean(infos[-1].loss), loss, rtol=1e-5)


def test_the_length_of_the_ascent_is_that_of_kept_weights_alone():
    """|d| = 5 with the entry that is pruned, 3 without: the gradient is w + d / 3."""
    start, kept = [3.0, 0.0], [True, False]
    targets = DATA._replace(y=jnp.array([[[0.0, 4.0]]] * 2))
    algorithm = build(PLAIN, gradient_point="sam", gradient_radius=1.0)
    state, _ = algorithm.step(
        jax.random.key(1), first_state(algorithm, start, kept), targets
    )
    np.testing.assert_allclose(weights(state), [3.0 - RATE * 4.0, 0.0], rtol=1e-6)


def test_noise_is_normal_and_drawn_for_every_entry_client_and_step():
    number = 4000
    start, kept = np.ones(number), np.arange(number) % 4 > 0
    draws = []
    for steps in (1, 2):
        for merge in (lambda w: w[0], lambda w: w[1]):
            algorithm = build(
                Method(mean._replace(merge=_picking(merge))),
                local_epochs=steps,
                gradient_point="noise",
                gradient_radius=0.5,
            )
            same = DATA._replace(y=jnp.zeros_like(DATA.y))  # the gradient is w
            state, _ = jax.jit(algorithm.step)(
                jax.random.key(3), first_state(algorithm, start, kept), same
            )
            w = weights(state)
            assert (w[~kept] == 0).all()
            draws.append(w[kept])
    # w_1 = (1 - r) w + r 0.5 z with the rate r, and the same again.
    before = [np.ones_like(draws[0])] * 2 + draws[:2]
    every = np.stack(
        [
            (w - (1 - RATE) * v) / (RATE * 0.5)
            for v, w in zip(before, draws, strict=True)
        ]
    )
    assert np.abs(every.mean(axis=1)).max() < 0.06
    assert np.abs(every.std(axis=1) - 1).max() < 0.04
    assert np.abs((every**4).mean(axis=1) - 3).max() < 0.5
    assert np.abs(np.corrcoef(every) - np.eye(4)).max() < 0.06


def _picking(which):
    def merge(sums, uploads, context):
        params = jax.tree.map(which, uploads.variables)
        return params, context.masks

    return merge


ALGORITHMS = {
    "fedavg": (algorithms.fedavg, {}),
    "global": (algorithms.fedsparsify_global, SPARSE),
    "local": (algorithms.fedsparsify_local, SPARSE | {"fine_tune_epochs": 1}),
    "feddst": (algorithms.feddst, SPARSE | {"interval": 1}),
    "ste": (algorithms.ste, SPARSE),
    "halo": (algorithms.halo, SPARSE | {"xi": 1e-2, "psi": 1e-2}),
}


_PLAIN = {}


def play(name, clients, **more):
    """The states after every round, and what these report."""
    builder, options = ALGORITHMS[name]
    algorithm = builder(MLP.apply, **ENGINE, **options, **more)
    state = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    if not more and name in _PLAIN:
        return _PLAIN[name]
    played = run_rounds(jax.jit(algorithm.step), state, clients, round_keys(3))
    if not more:
        _PLAIN[name] = played
    return played


@pytest.mark.parametrize("point", ["past", "fresh", "noise", "sam"])
def test_radius_zero_is_sgd_bit_for_bit(point, clients):
    """Also as an array, where all of it is in the program."""
    plain, infos = play("local", clients)
    for radius in (0, jnp.float32(0)):
        same, reported = play(
            "local", clients, gradient_point=point, gradient_radius=radius
        )
        chex.assert_trees_all_equal(plain, same)
        chex.assert_trees_all_equal(infos, reported)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_other_points_train_otherwise_and_keep_zeros(name, clients):
    plain, _ = play(name, clients)
    states, _ = play(name, clients, gradient_point="sam", gradient_radius=0.3)
    last = states[-1]
    if name != "ste":  # whose weights stay dense
        for w, mask in zip(
            *map(jax.tree.leaves, (last.variables, last.masks)), strict=True
        ):
            assert (w[~mask] == 0).all()
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(last.variables, plain[-1].variables, rtol=1e-3)


def test_default_radii():
    """The learning rate for gradients, 0.05 for SAM, 0.01 for noise."""
    for point, radius in [
        ("past", RATE),
        ("fresh", RATE),
        ("sam", 0.05),
        ("noise", 0.01),
    ]:
        results = []
        for more in ({}, {"gradient_radius": radius}):
            algorithm = build(PLAIN, local_epochs=2, gradient_point=point, **more)
            state = first_state(algorithm)
            results.append(algorithm.step(jax.random.key(1), state, DATA)[0])
        chex.assert_trees_all_equal(*results)


def test_powerpropagation_extrapolates_theta():
    """theta = (1, 2) of w = (1, 4); the gradient of half (w - y)^2 is (w - y) 2 theta.

    The look-ahead along it is to theta - r (w - y) 2 theta, with another gradient.
    """
    start, target, radius = np.array([1.0, 4.0]), 1.0, 0.1
    theta = np.sqrt(start)
    ahead = theta - radius * (start - target) * 2 * theta
    theta = theta - RATE * (ahead**2 - target) * 2 * ahead
    algorithm = build(
        PLAIN, powerprop=2.0, gradient_point="fresh", gradient_radius=radius
    )
    same = DATA._replace(y=jnp.full_like(DATA.y, target))
    state = first_state(algorithm, start, [True, True])
    state, _ = algorithm.step(jax.random.key(1), state, same)
    np.testing.assert_allclose(weights(state), theta * abs(theta), rtol=1e-5)


def test_radii_are_trials_of_one_sweep(clients):
    def trial(state, clients, radius):
        algorithm = algorithms.fedavg(
            MLP.apply, gradient_point="fresh", gradient_radius=radius, **ENGINE
        )
        return algorithm.step(jax.random.key(5), state, clients)

    start = algorithms.fedavg(MLP.apply, **ENGINE).init(
        jax.random.key(1), MLP.init(jax.random.key(2))
    )
    radii = [0.0, 0.1, 0.5]
    swept, _ = jax.jit(over_trials(trial))(
        stack_states([start] * 3), clients, jnp.array(radii)
    )
    for i, radius in enumerate(radii):
        alone, _ = jax.jit(trial)(start, clients, radius)
        one = jax.tree.map(lambda leaf, i=i: leaf[i], swept.variables)
        chex.assert_trees_all_close(one, alone.variables, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="unknown gradient_point 'up': none, past"):
        build(PLAIN, gradient_point="up")
    with pytest.raises(ValueError, match="gradient_radius is -1: it must be at least"):
        build(PLAIN, gradient_point="sam", gradient_radius=-1)
    with pytest.raises(ValueError, match="gradient_radius goes with a gradient_point"):
        build(PLAIN, gradient_radius=0.1)


def test_methods_with_gradients_of_their_own_refuse_another_point():
    options = {"final_sparsity": 0.6, "gradient_point": "past"}
    message = "gradient_point past does not go with a method that takes gradients"
    with pytest.raises(ValueError, match=message):
        algorithms.prunefl(MLP.apply, **ENGINE, **options)
    algorithms.prunefl(MLP.apply, gradient_radius=0, **ENGINE, **options)
    same = GradientTransform(*PLAIN.gradient)
    with pytest.raises(ValueError, match=message):
        build(PLAIN._replace(gradient=same), gradient_point="past")

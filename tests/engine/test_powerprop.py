"""Powerpropagation around rounds: against NumPy, and beside rounds without it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import (
    DATA,
    MLP,
    RATE,
    START,
    build,
    half_square,
    mean,
    round_keys,
    run_rounds,
    weights,
)

from fedsparsify_jax import algorithms
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.proximal import proximal
from fedsparsify_jax.engine.sweeps import over_trials, stack_states
from fedsparsify_jax.method import Method

ROUNDS = 3
ENGINE = {"learning_rate": 0.1, "local_epochs": 2, "batch_size": 4, "num_clients": 4}
SPARSE = {"final_sparsity": 0.6, "rounds": ROUNDS}
PLAIN = Method(aggregate("mean"))


def powers(theta, alpha):
    return np.sign(theta) * np.abs(theta) ** alpha


def played(method=PLAIN, rounds=1, start=START, **options):
    """The toy's weights after rounds; its clients 0 and 1 have the targets 1 and 3."""
    algorithm = build(method, **options)
    state, step = algorithm.init(jax.random.key(0), start), jax.jit(algorithm.step)
    return weights(run_rounds(step, state, DATA, round_keys(rounds))[0][-1])


def stepped(theta, alpha, target, mu=0.0, anchor=0.0, decay=0.0):
    """One step of SGD on what is trained, given the gradient of the weights."""
    w = powers(theta, alpha)
    slope = (w - target) + mu * (w - anchor)
    return theta - RATE * (slope * alpha * np.abs(theta) ** (alpha - 1) + decay * theta)


@pytest.mark.parametrize("average", ["theta", "weights"])
@pytest.mark.parametrize("alpha", [1.25, 2.0, 3.0])
def test_rounds_are_numpys(alpha, average):
    w = np.array([2.0, -4.0]) / 4
    start = {"params": {"w": jnp.asarray(w, jnp.float32)}}
    options = {"powerprop": alpha, "powerprop_average": average}
    got = played(rounds=4, start=start, **options)
    for _ in range(4):
        theta = [stepped(powers(w, 1 / alpha), alpha, y) for y in (1.0, 3.0)]
        w = np.mean([powers(t, alpha) for t in theta], axis=0)
        if average == "theta":
            w = powers(np.mean(theta, axis=0), alpha)
    np.testing.assert_allclose(got, w, rtol=1e-5)


def test_all_hooks_see_weights():
    """The proximal term is about weights, and so is the norm that clipping bounds."""
    w, alpha = np.array([0.5, -1.0]), 2.0
    start = {"params": {"w": jnp.asarray(w, jnp.float32)}}
    method = PLAIN._replace(objective=proximal(0.5))
    options = {"powerprop": alpha, "powerprop_average": "weights"}
    two = {"local_epochs": 2, "start": start} | options
    moved = []
    for y in (1.0, 3.0):
        theta = powers(w, 1 / alpha)
        for _ in range(2):
            theta = stepped(theta, alpha, y, mu=0.5, anchor=w)
        moved.append(powers(theta, alpha) - w)
    got = played(method, **two)
    np.testing.assert_allclose(got, w + np.mean(moved, axis=0), rtol=1e-5)

    short = [0.01 * d / np.linalg.norm(d) for d in moved]
    got = played(method, clip_norm=0.01, **two)
    np.testing.assert_allclose(got, w + np.mean(short, axis=0), rtol=1e-5)


def test_what_an_optimizer_keeps_belongs_to_theta():
    """Momentum goes on from round to round; decay pulls theta, not the weights."""
    w, alpha = np.array([0.5, -1.0]), 2.0
    start = {"params": {"w": jnp.asarray(w, jnp.float32)}}
    got = played(
        rounds=3,
        start=start,
        powerprop=alpha,
        powerprop_average="weights",
        optimizer_state="kept",
        optimizer=optax.chain(optax.add_decayed_weights(0.5), optax.sgd(RATE, 0.9)),
    )
    velocity = np.zeros((2, 2))
    for _ in range(3):
        new = []
        for k, y in enumerate((1.0, 3.0)):
            theta = powers(w, 1 / alpha)
            velocity[k] = 0.9 * velocity[k] + (
                (w - y) * alpha * np.abs(theta) + 0.5 * theta
            )
            new.append(powers(theta - RATE * velocity[k], alpha))
        w = np.mean(new, axis=0)
    np.testing.assert_allclose(got, w, rtol=1e-5)


def test_an_optimizer_may_keep_what_it_starts_from():
    """Its initial state is made of theta: here it holds a copy."""
    copy = optax.GradientTransformation(
        lambda params: params, lambda updates, state, params: (state, state)
    )
    start = {"params": {"w": jnp.array([4.0, -9.0])}}
    for kept in ("fresh", "kept"):
        got = played(start=start, powerprop=2.0, optimizer=copy, optimizer_state=kept)
        # theta = (2, -3) is doubled.
        assert got.tolist() == [16, -36]


ALGORITHMS = {
    "fedavg": (algorithms.fedavg, {}),
    "fedprox": (algorithms.fedprox, {"mu": 0.1}),
    "fedopt": (algorithms.fedopt, {"server_optimizer": "yogi"}),
    "global": (algorithms.fedsparsify_global, SPARSE),
    "local": (algorithms.fedsparsify_local, SPARSE | {"fine_tune_epochs": 1}),
    "plus": (algorithms.fedsparsify_plus, SPARSE),
    "snip": (algorithms.snip, {"final_sparsity": 0.6}),
    "one-shot": (algorithms.one_shot, SPARSE),
    "random": (algorithms.random_pruning, SPARSE),
}


def play(name, clients, **more):
    """The states after every round, and what these report."""
    builder, options = ALGORITHMS[name]
    algorithm = builder(MLP.apply, **ENGINE, **options, **more)
    state = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    keys = jax.random.split(jax.random.key(3), ROUNDS)
    return run_rounds(jax.jit(algorithm.step), state, clients, keys)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_alpha_one_is_the_baseline_bit_for_bit(name, clients):
    """Also as an array, where all of Powerpropagation is in the program."""
    plain, infos = play(name, clients)
    for alpha in (1, 1.0, jnp.float32(1)):
        same, reported = play(name, clients, powerprop=alpha)
        chex.assert_trees_all_equal(plain, same)
        chex.assert_trees_all_equal(infos, reported)


def test_alpha_one_is_the_baseline_as_users_compile(clients, optimized):
    """Up to how XLA fuses the two programs; without the option they are one."""
    plain, _ = play("global", clients)
    same, _ = play("global", clients, powerprop=jnp.float32(1))
    chex.assert_trees_all_close(plain, same, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(plain, play("global", clients, powerprop=1.0)[0])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_pruned_weights_are_zero_and_the_rest_trains(name, clients):
    plain, _ = play(name, clients)
    states, infos = play(name, clients, powerprop=2.0, optimizer_state="kept")
    last = states[-1]
    for w, mask in zip(
        *map(jax.tree.leaves, (last.variables, last.masks)), strict=True
    ):
        assert (w[~mask] == 0).all()
    assert infos[-1].sparsity == pytest.approx(
        np.mean(
            np.concatenate([~m.ravel() for m in jax.tree.leaves(last.masks["params"])])
        )
    )
    first = states[0].variables
    chex.assert_trees_all_equal(first, plain[0].variables)  # as initialised
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(last.variables, plain[-1].variables, rtol=1e-3)


def test_purges_rank_weights_beside_biases():
    """A bias is no power: roots, (0.8, 0.6) and (0.3, 0.25), would rank it last."""

    def answer(variables, x, *, train=False, key=None, valid=None):
        w = variables["params"]["kernel"] + variables["params"]["bias"]
        return jnp.broadcast_to(w, (len(x), 2)), {}

    start = {"kernel": jnp.array([0.5, 0.2]), "bias": jnp.array([0.3, 0.25])}
    algorithm = algorithms.fedsparsify_global(
        answer,
        **{"final_sparsity": 0.5, "rounds": 2, "begin": 0},
        **{"powerprop": 3.0, "learning_rate": 1e-6, "loss_fn": half_square},
    )
    state = algorithm.init(jax.random.key(0), {"params": start})
    for key in round_keys(2):
        state, _ = jax.jit(algorithm.step)(key, state, DATA)
    kept = jax.tree.map(lambda mask: mask.tolist(), state.masks["params"])
    assert kept == {"kernel": [True, False], "bias": [True, False]}


@pytest.mark.parametrize("merge", ["mean", "median"])
def test_clients_that_agree_are_merged_alike_in_both_spaces(merge):
    same = DATA._replace(y=jnp.full_like(DATA.y, 2.0))
    results = []
    for average in ("theta", "weights"):
        algorithm = build(
            Method(aggregate(merge)), powerprop=2.0, powerprop_average=average
        )
        state = algorithm.init(jax.random.key(0), START)
        state, _ = jax.jit(algorithm.step)(jax.random.key(1), state, same)
        results.append(weights(state))
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_a_merge_of_all_uploads_sees_roots():
    """A merge that stacks, and a sum over clients, give the same model."""
    for average in ("theta", "weights"):
        options = {"powerprop": 2.0, "powerprop_average": average, "rounds": 2}
        got = played(Method(mean), **options)
        np.testing.assert_allclose(got, played(PLAIN, **options), rtol=1e-6)


def test_exponents_are_trials_of_one_sweep(clients):
    def trial(state, clients, alpha):
        algorithm = algorithms.fedavg(MLP.apply, powerprop=alpha, **ENGINE)
        return algorithm.step(jax.random.key(5), state, clients)

    start = algorithms.fedavg(MLP.apply, **ENGINE).init(
        jax.random.key(1), MLP.init(jax.random.key(2))
    )
    alphas = [1.0, 1.5, 3.0]
    states = stack_states([start] * len(alphas))
    swept, _ = jax.jit(over_trials(trial))(states, clients, jnp.array(alphas))
    for i, alpha in enumerate(alphas):
        alone, _ = jax.jit(trial)(start, clients, alpha)
        one = jax.tree.map(lambda leaf, i=i: leaf[i], swept.variables)
        chex.assert_trees_all_close(one, alone.variables, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name, options",
    [("feddst", SPARSE), ("fedtiny", SPARSE), ("prunefl", {"final_sparsity": 0.6})],
)
def test_growing_at_zero_is_refused(name, options):
    builder = getattr(algorithms, name)
    with pytest.raises(ValueError, match="powerprop does not go with weights that are"):
        builder(MLP.apply, powerprop=1.5, **ENGINE, **options)
    builder(MLP.apply, powerprop=1.0, **ENGINE, **options)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"powerprop is 0.5: it must be at least 1"):
        build(PLAIN, powerprop=0.5)
    with pytest.raises(ValueError, match="unknown powerprop_average 'both': theta or"):
        build(PLAIN, powerprop=2.0, powerprop_average="both")
    with pytest.raises(ValueError, match="does not go with wire_values float16"):
        build(PLAIN, powerprop=2.0, wire_values="float16")
    build(PLAIN, powerprop=2.0, wire_values="bfloat16")

"""A round in three parts (choose, gather, play) is the round of `step`, to the bit."""

import importlib

import chex
import jax
import jax.numpy as jnp
import pytest

from fedsparsify_jax import algorithms, models, trees
from fedsparsify_jax.aggregation import weighted_mean
from fedsparsify_jax.engine.round import engine
from fedsparsify_jax.method import Method
from fedsparsify_jax.types import Scouts

MODEL = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(4,))
OPTIONS = {"local_epochs": 1, "batch_size": 4, "num_clients": 4}
# The three kinds of setup (nobody, one client, a cohort), states of clients.
METHODS = {
    "fedsparsify_global": {"rounds": 3, "participation": 0.5},
    "kept optimizers": {"participation": 0.75, "momentum": 0.9},
    "everybody": {"momentum": 0.9},
    "feddst": {"rounds": 4, "interval": 1, "participation": 0.5},
    "snip": {"participation": 0.5},
    "grasp": {"participation": 0.75, "source": "cohort"},
    "prunefl": {"participation": 0.5, "interval": 1, "initial_adjustments": 2},
}


def build(name):
    options = OPTIONS | METHODS[name]
    if hasattr(algorithms, name):
        return getattr(algorithms, name)(MODEL.apply, **options)
    return algorithms.fedprox(MODEL.apply, optimizer_state="kept", **options)


def round_key(t):
    return jax.random.fold_in(jax.random.key(7), t)


def check_three_rounds(name, clients):
    algorithm = build(name)
    step, play = jax.jit(algorithm.step), jax.jit(algorithm.play)
    choose = jax.jit(algorithm.cohort, static_argnums=1)
    whole = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(1)))
    parts = whole
    ids = algorithm.scouts(round_key(1), clients.count)
    scouts = Scouts(ids, trees.take(clients, ids))
    for t in (1, 2, 3):
        whole, expected = step(round_key(t), whole, clients)
        key = round_key(t)
        cohort = choose(key, 4)  # does not consume the key
        data = trees.take(clients, cohort)
        parts, info = play(key, parts, cohort, data, scouts)
        chex.assert_trees_all_equal(info, expected)
        chex.assert_trees_all_equal(parts, whole)
    assert len(info.cohort) == int(4 * METHODS[name].get("participation", 1))


@pytest.mark.parametrize("name", METHODS)
def test_play_is_step_without_the_gathering(name, clients):
    check_three_rounds(name, clients)


@pytest.mark.parametrize("name", ["fedsparsify_global", "grasp"])
def test_also_as_users_compile(name, clients, optimized):
    check_three_rounds(name, clients)


def test_scouts_are_only_those_that_the_method_looks_at(clients):
    sizes = {
        name: len(build(name).scouts(round_key(1), clients.count)) for name in METHODS
    }
    assert sizes == {
        "fedsparsify_global": 0,
        "kept optimizers": 0,
        "everybody": 0,
        "feddst": 0,
        "snip": 1,
        "grasp": 3,
        "prunefl": 1,
    }


def test_a_cohort_of_the_callers_choice(clients):
    """Any distinct ids will do, also from beyond the sampler."""
    algorithm = algorithms.fedavg(MODEL.apply, local_epochs=1)
    state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(1)))
    cohort = jnp.array([3, 0])
    _, info = algorithm.play(round_key(1), state, cohort, trees.take(clients, cohort))
    assert info.cohort.tolist() == [3, 0]


def test_what_play_refuses(clients):
    start = MODEL.init(jax.random.key(1))
    snip = build("snip")
    state = snip.init(jax.random.key(0), start)
    two = jnp.arange(2)
    data = trees.take(clients, two)
    with pytest.raises(ValueError, match=r"give play the scouts"):
        snip.play(round_key(1), state, two, data)
    with pytest.raises(AssertionError):
        snip.play(round_key(1), state, jnp.arange(3), data, Scouts(two, data))
    with pytest.raises(ValueError, match="num_clients is 4, asked for 9"):
        snip.cohort(round_key(1), 9)

    def setup(key, context, clients):
        return context.variables, context.masks

    def mean(uploads, context):
        return weighted_mean(uploads.variables, uploads.weights), context.masks

    everybody = engine(MODEL.apply, Method(aggregate=mean, setup=setup))
    with pytest.raises(ValueError, match="all clients before round 1"):
        everybody.scouts(round_key(1), clients.count)


def test_an_algorithm_may_offer_step_alone():
    types = importlib.import_module("fedsparsify_jax.types")
    plain = types.FederatedAlgorithm(lambda *_: None, lambda *_: None)
    assert (plain.cohort, plain.play, plain.scouts) == (None, None, None)

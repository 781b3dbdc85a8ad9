"""A round in parts is the round of `step`, to the bit: sample, gather, run; halves."""

import importlib

import chex
import jax
import jax.numpy as jnp
import pytest
from toy import MLP

from fedsparsify_jax import algorithms, trees
from fedsparsify_jax.types import Cohort

OPTIONS = {"local_epochs": 1, "batch_size": 4, "num_clients": 4}
# The three kinds of setup (no clients, one, a cohort), states of clients.
METHODS = {
    "fedsparsify_global": {"rounds": 3, "participation": 0.5},
    "kept optimizers": {"participation": 0.75, "momentum": 0.9},
    "all clients": {"momentum": 0.9},
    "feddst": {"rounds": 4, "interval": 1, "participation": 0.5},
    "snip": {"participation": 0.5},
    "grasp": {"participation": 0.75, "source": "cohort"},
    "prunefl": {"participation": 0.5, "interval": 1, "initial_adjustments": 2},
    "fedtiny": {"participation": 0.75, "interval": 1, "candidates": 2},
}


def build(name):
    options = OPTIONS | METHODS[name]
    if hasattr(algorithms, name):
        return getattr(algorithms, name)(MLP.apply, **options)
    return algorithms.fedprox(MLP.apply, optimizer_state="kept", **options)


def round_key(t):
    return jax.random.fold_in(jax.random.key(7), t)


def check_three_rounds(name, clients):
    algorithm = build(name)
    step, run = jax.jit(algorithm.step), jax.jit(algorithm.cohorts.run)
    sample = jax.jit(algorithm.cohorts.sample, static_argnums=1)
    whole = algorithm.init(jax.random.key(0), MLP.init(jax.random.key(1)))
    parts = whole
    ids = algorithm.cohorts.setup_clients(round_key(1), clients.sizes)
    setup_clients = Cohort(ids, trees.take(clients, ids))
    for t in (1, 2, 3):
        whole, expected = step(round_key(t), whole, clients)
        key = round_key(t)
        ids = sample(key, 4)  # does not consume the key
        cohort = Cohort(ids, trees.take(clients, ids))
        parts, info = run(key, parts, cohort, setup_clients)
        chex.assert_trees_all_equal(info, expected)
        chex.assert_trees_all_equal(parts, whole)
    assert len(info.cohort) == int(4 * METHODS[name].get("participation", 1))


@pytest.mark.parametrize("name", METHODS)
def test_run_is_step_without_the_gathering(name, clients):
    check_three_rounds(name, clients)


@pytest.mark.parametrize("name", ["fedsparsify_global", "grasp"])
def test_also_as_users_compile(name, clients, optimized):
    check_three_rounds(name, clients)


def test_setup_clients_are_only_those_that_the_method_looks_at(clients):
    sizes = {
        name: len(build(name).cohorts.setup_clients(round_key(1), clients.sizes))
        for name in METHODS
    }
    assert sizes == {
        "fedsparsify_global": 0,
        "kept optimizers": 0,
        "all clients": 0,
        "feddst": 0,
        "snip": 1,
        "grasp": 3,
        "prunefl": 1,
        "fedtiny": 3,
    }


def test_a_cohort_of_the_callers_choice(clients):
    """Any distinct ids will do, also from beyond the sampler."""
    algorithm = algorithms.fedavg(MLP.apply, local_epochs=1)
    state = algorithm.init(jax.random.key(0), MLP.init(jax.random.key(1)))
    ids = jnp.array([3, 0])
    cohort = Cohort(ids, trees.take(clients, ids))
    _, info = algorithm.cohorts.run(round_key(1), state, cohort)
    assert info.cohort.tolist() == [3, 0]


def test_bad_cohorts_are_refused(clients):
    snip = build("snip")
    state = snip.init(jax.random.key(0), MLP.init(jax.random.key(1)))
    two = Cohort(jnp.arange(2), trees.take(clients, jnp.arange(2)))
    with pytest.raises(ValueError, match=r"give run the clients whose ids"):
        snip.cohorts.run(round_key(1), state, two)
    with pytest.raises(AssertionError):
        three = two._replace(ids=jnp.arange(3))
        snip.cohorts.run(round_key(1), state, three, two)
    with pytest.raises(ValueError, match="num_clients is 4, asked for 9"):
        snip.cohorts.sample(round_key(1), 9)


def test_an_algorithm_may_offer_step_alone():
    types = importlib.import_module("fedsparsify_jax.types")
    plain = types.FederatedAlgorithm(lambda *_: None, lambda *_: None)
    assert plain.cohorts is None

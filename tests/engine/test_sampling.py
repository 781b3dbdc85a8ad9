"""Poisson samples of clients: who joins, in which places, and with which effect."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_build import build as build_row
from conftest import make_clients
from toy import DATA, MLP, START, W, build, round_keys, stepped

from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.engine.sampling import (
    cohort_size,
    joins,
    poisson_places,
    sample_poisson,
)
from fedsparsify_jax.engine.wrappers.private import Privacy
from fedsparsify_jax.method import Method
from fedsparsify_jax.types import Cohort

MEAN = Method(aggregate("mean"))


def tail(places, number, q):
    """P(more than so many of a binomial), added up term by term."""
    return math.fsum(
        math.comb(number, k) * q**k * (1 - q) ** (number - k)
        for k in range(places + 1, number + 1)
    )


@pytest.mark.parametrize(("number", "q"), [(1000, 0.05), (300, 0.2), (200, 0.01)])
def test_places_suffice_but_for_a_probability_of_1e_30(number, q):
    places = poisson_places(number, q)
    assert tail(places, number, q) <= 1e-30
    # By a bound, so some fewer would do as well, but not many fewer.
    assert tail(int(places * 0.9), number, q) > 1e-30
    assert places < number


def test_few_clients_all_have_places():
    assert [poisson_places(n, 0.3) for n in (1, 10, 50)] == [1, 10, 50]
    assert poisson_places(7, 1.0) == 7
    assert cohort_size(10, 0.01, "poisson") == 10  # where a fixed cohort has nobody


def test_clients_join_independently_with_their_probability():
    ids = jnp.arange(200)
    rows = np.stack([joins(key, ids, 0.3) for key in round_keys(500)])
    assert rows.mean() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / rows.size))
    counts = rows.sum(axis=1)
    assert counts.var() == pytest.approx(200 * 0.21, rel=0.25)  # of a binomial
    assert abs(np.corrcoef(rows[:, 0], rows[:, 1])[0, 1]) < 0.15


def test_all_who_join_have_places():
    everyone = jnp.arange(300)
    places = poisson_places(300, 0.2)
    for key in round_keys(20):
        ids = sample_poisson(key, 300, 0.2, places)
        assert len(set(ids.tolist())) == places and (np.diff(ids) > 0).all()
        expected = np.flatnonzero(joins(key, everyone, 0.2))
        present = np.asarray(ids)[np.asarray(joins(key, ids, 0.2))]
        np.testing.assert_array_equal(present, expected)


def test_a_round_merges_those_who_joined_and_counts_their_bytes_alone():
    """Two clients with targets 1 and 3; rounds of none, either and both occur."""
    algorithm = build(MEAN, participation=0.5, cohort_sampling="poisson")
    step = jax.jit(algorithm.step)
    targets, occurred = np.array([1.0, 3.0]), set()
    for key in round_keys(12):
        state, info = step(key, algorithm.init(jax.random.key(0), START), DATA)
        ids = [int(i) for i in info.cohort if i >= 0]
        occurred.add(tuple(ids))
        expected = stepped(W, targets[ids].mean()) if ids else W
        np.testing.assert_allclose(state.variables["params"]["w"], expected, rtol=1e-6)
        assert (int(info.merged), int(info.dropped)) == (len(ids), 0)
        assert (np.asarray(info.bytes_up) > 0).sum() == len(ids)
        assert (np.asarray(info.bytes_down) > 0).sum() == len(ids)
    assert occurred == {(), (0,), (1,), (0, 1)}


def test_who_did_not_join_keeps_its_state():
    clients = make_clients()
    options = {"momentum": 0.9, "optimizer_state": "kept", "participation": 0.5}
    algorithm = build_row("fedavg", model=MLP, cohort_sampling="poisson", **options)
    state = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    step, changes = jax.jit(algorithm.step), 0
    for key in round_keys(4):
        new, info = step(key, state, clients)
        for client in range(len(clients.sizes)):
            pair = [jax.tree.leaves(s.clients.optimizer) for s in (state, new)]
            same = all(
                (a[client] == b[client]).all() for a, b in zip(*pair, strict=True)
            )
            assert same == (client not in info.cohort.tolist())
            changes += not same
        state = new
    assert 0 < changes < 16


def test_a_cohort_that_the_caller_gathers_gives_the_same_round():
    clients = make_clients()
    privacy = Privacy(clip_norm=0.5, noise_multiplier=1.0, denominator=2.0)
    algorithm = build_row(
        "fedsparsify-global",
        model=MLP,
        participation=0.5,
        cohort_sampling="poisson",
        privacy=privacy,
    )
    state = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    for key in round_keys(2):
        whole, info = jax.jit(algorithm.step)(jax.random.clone(key), state, clients)
        ids = algorithm.cohorts.sample(jax.random.clone(key), len(clients.sizes))
        cohort = Cohort(ids, jax.tree.map(lambda leaf, ids=ids: leaf[ids], clients))
        same, other = jax.jit(algorithm.cohorts.run)(key, state, cohort)
        chex.assert_trees_all_close(whole.variables, same.variables, atol=1e-6)
        assert info.cohort.tolist() == other.cohort.tolist()
        state = whole


def test_a_poisson_sample_has_no_halves_and_other_samplings_do_not_exist():
    assert build(MEAN, cohort_sampling="poisson").halves is None
    with pytest.raises(ValueError, match="unknown cohort_sampling 'bernoulli': fixed"):
        build(MEAN, cohort_sampling="bernoulli")

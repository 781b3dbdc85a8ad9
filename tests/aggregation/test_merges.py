"""The merges of the authors' code against NumPy written position by position."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import context_of, merged, uploads_of

from fedsparsify_jax.aggregation import merges, streaming

CLIENTS, SHAPE, ETA = 5, (3, 2), 0.3

# Every oracle sees one position: the values of the present clients with zeros where
# they pruned, who of them kept it, their weights (sum 1), and the previous value.


def oracle_absolute_minimum(values, kept, shares, previous):
    return min((v for v in values if v != 0), key=abs, default=0.0)


def oracle_tanh(values, kept, shares, previous):
    return math.atanh(
        sum(s * math.tanh(v) for s, v in zip(shares, values, strict=True))
    )


def oracle_pseudo_gradient(values, kept, shares, previous, eta=1.0):
    pairs = zip(shares, values, strict=True)
    return previous - eta * sum(s * (previous - v) for s, v in pairs)


ORACLES = {
    "median": lambda v, k, s, p: np.median(v),
    "absolute-maximum": lambda v, k, s, p: max(v, key=abs),
    "absolute-minimum": oracle_absolute_minimum,
    "tanh": oracle_tanh,
    "pseudo-gradient": oracle_pseudo_gradient,
}
# Their oracles see whole models: test_hostile.py.
ROBUST = ("trimmed-mean", "krum", "multi-krum", "geometric-median")
SMALL_STEP = partial(merges.pseudo_gradient, eta=ETA)
CASES = {name: (merges.VALUES[name], oracle) for name, oracle in ORACLES.items()}
CASES["small-step"] = (SMALL_STEP, partial(oracle_pseudo_gradient, eta=ETA))

every_value = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def absent_clients_hold_nan():
    with jax.debug_nans(False):
        yield


def draw(seed):
    """Values, masks, weights and previous values; the absent hold NaN and odd masks."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(CLIENTS, *SHAPE)).astype(np.float32)
    kept = rng.random((CLIENTS, *SHAPE)) < 0.6
    weights = rng.integers(0, 3, CLIENTS) * (rng.random(CLIENTS) < 0.8)
    weights[rng.integers(CLIENTS)] = 2  # somebody is there
    values[weights == 0] = np.nan
    return values, kept, weights, rng.normal(size=SHAPE).astype(np.float32)


def tree(array):
    return {"params": {"w": jnp.asarray(array)}}


COMPILED = {}


def run(merge, values, kept, weights, previous):
    if merge not in COMPILED:
        COMPILED[merge] = jax.jit(merge)
    return COMPILED[merge](
        tree(values), tree(kept), jnp.asarray(weights, jnp.float32), tree(previous)
    )


def test_the_registries_agree():
    assert set(merges.VALUES) == {*ORACLES, *ROBUST}
    assert set(merges.NAMES) == {*merges.VALUES, "mean", "nonzero"}


@every_value
@given(seed=st.integers(0, 2**31))
def test_values(name, seed):
    merge, oracle = CASES[name]
    values, kept, weights, previous = draw(seed)
    found = run(merge, values, kept, weights, previous)["params"]["w"]
    here = weights > 0
    shares = weights[here] / weights.sum()
    for position in np.ndindex(*SHAPE):
        at = (here, *position)
        masked = np.where(kept[at], values[at], 0.0).tolist()
        expected = oracle(masked, kept[at], shares.tolist(), float(previous[position]))
        assert float(found[position]) == pytest.approx(expected, abs=2e-6)


RULES = {**dict.fromkeys(merges.NAMES, "none"), "vote": "authors"}
every_rule = pytest.mark.parametrize("name", RULES)


def run_aggregate(name, values, kept, weights, previous):
    """The merge of a method, under elected masks; "vote" is that of the mean."""
    aggregate = streaming.aggregate("mean" if name == "vote" else name, RULES[name])

    def merge(values, kept, weights, previous):
        uploads = uploads_of(values, kept, weights)
        return merged(aggregate, uploads, context_of(previous))

    return run(COMPILED.setdefault(name, merge), values, kept, weights, previous)


@every_rule
@given(seed=st.integers(0, 2**31))
def test_masks_are_the_vote_or_the_union(name, seed):
    values, kept, weights, previous = draw(seed)
    _, masks = run_aggregate(name, values, kept, weights, previous)
    participating = weights > 0
    votes = kept[participating].sum(axis=0)
    needed = max(participating.sum() // 2, 1) if name == "vote" else 1
    np.testing.assert_array_equal(masks["params"]["w"], votes >= needed)


@every_rule
def test_merged_weights_stay_inside_the_masks(name):
    values, kept, weights, previous = draw(3)
    kept[:, 0] = False
    variables, masks = run_aggregate(name, values, kept, weights, previous)
    outside = ~np.asarray(masks["params"]["w"])
    assert outside[0].all()
    assert not np.asarray(variables["params"]["w"])[outside].any()


@every_rule
def test_if_all_are_absent_nothing_is_kept(name):
    values, kept, _, previous = draw(4)
    values[:] = np.nan
    absent = np.zeros(CLIENTS)
    variables, masks = run_aggregate(name, values, kept, absent, previous)
    assert not np.asarray(variables["params"]["w"]).any()
    assert not np.asarray(masks["params"]["w"]).any()


@every_value
def test_one_present_client_gets_its_own_model(name):
    values, kept, _, previous = draw(5)
    values[2] = np.linspace(-1, 1, 6).reshape(SHAPE)
    alone = np.array([0, 0, 7, 0, 0])
    found = run(CASES[name][0], values, kept, alone, previous)["params"]["w"]
    own = np.where(kept[2], values[2], 0.0)
    if name == "small-step":
        own = previous + ETA * (own - previous)
    np.testing.assert_allclose(found, own, atol=1e-6)


@every_value
def test_running_statistics_are_averaged_whatever_the_merge(name):
    stacked = {"w": jnp.array([[0.5], [-2.0], [1.0]])}
    variables = {"params": stacked, "batch_stats": {"var": jnp.array([9.0, 1.0, 2.0])}}
    kept = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), variables)
    previous = {"params": {"w": jnp.zeros(1)}, "batch_stats": {"var": jnp.float32(50)}}
    weights = jnp.array([1.0, 2.0, 1.0])
    merged = CASES[name][0](variables, kept, weights, previous)
    assert set(merged) == set(variables)
    expected = np.average([9.0, 1.0, 2.0], weights=np.asarray(weights))
    assert float(merged["batch_stats"]["var"]) == pytest.approx(expected, rel=1e-6)


def test_tanh_saturates_instead_of_overflowing():
    kept = np.ones((CLIENTS, *SHAPE), bool)
    big = np.full((CLIENTS, *SHAPE), 50.0, np.float32)
    found = run(merges.tanh, big, kept, np.ones(CLIENTS), big[0])["params"]["w"]
    np.testing.assert_allclose(found, 8.66, atol=0.01)


def test_bad_names_and_shapes_are_refused():
    with pytest.raises(ValueError, match="unknown merge 'modus': one of mean, nonzero"):
        merges.value_merge("modus")
    with pytest.raises(ValueError, match="unknown merge 'vote'"):
        streaming.aggregate("vote", "authors")
    with pytest.raises(ValueError, match="unknown vote rule 'all': one of authors"):
        streaming.aggregate("mean", "all")
    wide = {"w": jnp.ones((2, 3))}
    with pytest.raises(AssertionError):
        merges.median(wide, {"w": jnp.ones((2, 3), bool)}, jnp.ones(3), wide)

"""Merges against NumPy written position by position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsparsify_jax.aggregation import means as aggregation


def draw_cohort(seed, clients):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(clients, 3, 2)).astype(np.float32)
    kept = rng.random((clients, 3, 2)) < 0.6
    weights = rng.integers(0, 4, clients)
    return values, kept, weights


def as_trees(values, kept):
    return {"params": {"w": jnp.asarray(values)}}, {"params": {"w": jnp.asarray(kept)}}


cohorts = st.tuples(st.integers(0, 2**31), st.integers(1, 6))


@given(cohorts)
def test_weighted_mean(cohort):
    values, kept, weights = draw_cohort(*cohort)
    stacked, _ = as_trees(values, kept)
    found = aggregation.weighted_mean(stacked, jnp.asarray(weights))["params"]["w"]
    expected = np.zeros((3, 2))
    for value, weight in zip(values, weights, strict=True):
        expected += weight * value
    expected /= max(weights.sum(), 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@given(cohorts)
def test_nonzero_mean(cohort):
    values, kept, weights = draw_cohort(*cohort)
    stacked, stacked_masks = as_trees(values, kept)
    found = aggregation.nonzero_mean(stacked, stacked_masks, jnp.asarray(weights))
    for position in np.ndindex(3, 2):
        share = sum(w for w, m in zip(weights, kept, strict=True) if m[position])
        total = sum(
            w * v[position]
            for w, v, m in zip(weights, values, kept, strict=True)
            if m[position]
        )
        expected = total / share if share else 0.0
        assert float(found["params"]["w"][position]) == pytest.approx(
            expected, abs=1e-5
        )


@given(cohorts, st.sampled_from(["authors", "strict"]))
def test_majority_vote_mean(cohort, rule):
    values, kept, weights = draw_cohort(*cohort)
    stacked, stacked_masks = as_trees(values, kept)
    jweights = jnp.asarray(weights)
    voters = int((weights > 0).sum())
    votes = (kept & (weights > 0)[:, None, None]).sum(axis=0)
    elected = votes >= voters // 2 if rule == "authors" else votes > voters / 2
    elected &= votes >= 1
    shares = (weights / max(weights.sum(), 1))[:, None, None]
    with_zeros = (shares * np.where(kept, values, 0)).sum(axis=0)

    mean, masks = aggregation.majority_vote_mean(
        stacked, stacked_masks, jweights, rule=rule
    )
    np.testing.assert_array_equal(masks["params"]["w"], elected)
    np.testing.assert_allclose(
        mean["params"]["w"], np.where(elected, with_zeros, 0), atol=1e-6
    )


MERGES = {
    "mean": lambda w, m, n: aggregation.weighted_mean(w, n),
    "nonzero": aggregation.nonzero_mean,
    "vote": lambda w, m, n: aggregation.majority_vote_mean(w, m, n)[0],
}


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
def test_absent_clients_do_not_matter_whatever_they_hold(merge):
    present = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    kept = jnp.array([[True, True], [True, False]])
    alone = merge({"w": present}, {"w": kept}, jnp.array([1, 2]))
    with jax.debug_nans(False):
        absent = jnp.full((1, 2), jnp.nan)
        stacked = {"w": jnp.concatenate([present, absent])}
        masks = {"w": jnp.concatenate([kept, jnp.ones((1, 2), bool)])}
        together = merge(stacked, masks, jnp.array([1, 2, 0]))
    np.testing.assert_array_equal(alone["w"], together["w"])


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES)
def test_if_everybody_is_absent_the_merge_is_zero_and_finite(merge):
    masks = {"w": jnp.ones((2, 3), bool)}
    found = merge({"w": jnp.ones((2, 3))}, masks, jnp.zeros(2))
    assert found["w"].tolist() == [0.0, 0.0, 0.0]


def test_one_client_is_returned_as_it_is():
    stacked = {"w": jax.random.normal(jax.random.key(0), (1, 50))}
    found = aggregation.weighted_mean(stacked, jnp.array([7]))
    np.testing.assert_array_equal(found["w"], stacked["w"][0])


def test_weights_of_the_wrong_length_are_refused():
    with pytest.raises(AssertionError):
        aggregation.weighted_mean({"w": jnp.ones((2, 3))}, jnp.ones(3))

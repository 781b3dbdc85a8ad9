"""Means by rank against NumPy's sort of the present clients alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedsparsify_jax.aggregation.ranks import mean_of_ranks, ranks

CLIENTS, ENTRIES = 6, 4
# Few values, so that many are equal; both zeros, which are equal too.
VALUES = st.sampled_from([-2.0, -0.0, 0.0, 0.5, 3.0, np.inf, -np.inf])
by_rank = jax.jit(mean_of_ranks)


@settings(max_examples=60, deadline=None)
@given(
    leaf=arrays(np.float32, (CLIENTS, ENTRIES), elements=VALUES),
    present=arrays(bool, CLIENTS),
)
def test_ranks_are_those_of_a_stable_sort(leaf, present):
    found = np.asarray(ranks(leaf, present))[present]
    rows = leaf[present]
    wanted = np.empty(rows.shape, int)
    for column, order in enumerate(np.argsort(rows, axis=0, kind="stable").T):
        wanted[order, column] = range(len(rows))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 3), (0, 4), (3, 4), (2, 2)])
def test_the_mean_of_a_range_of_ranks(dtype, low, high):
    rng = np.random.default_rng(low * 7 + high)
    leaf = rng.integers(-9, 9, (CLIENTS, 3, ENTRIES)).astype(dtype)
    present = np.array([1, 0, 1, 1, 0, 1], bool)
    found = by_rank(leaf, present, low, high)
    rows = np.sort(leaf[present].astype(np.float64), axis=0)[low:high]
    wanted = rows.mean(axis=0) if len(rows) else np.zeros((3, ENTRIES))
    if dtype is np.int32:
        wanted = np.round(wanted)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-6)


def test_what_is_no_number_is_last_and_the_absent_may_hold_anything():
    column = np.array([np.nan, np.inf, 1.0, np.nan, -np.inf], np.float32)[:, None]
    present = np.array([1, 1, 1, 0, 0], bool)
    with jax.debug_nans(False):
        assert ranks(column, present)[:3, 0].tolist() == [2, 1, 0]
        assert by_rank(column, present, 0, 1).tolist() == [1.0]
        assert np.isnan(by_rank(column, present, 2, 3)).all()


def test_nobody_and_large_values():
    largest = jnp.full((2, 1), np.finfo(np.float32).max)
    assert by_rank(largest, jnp.ones(2, bool), 0, 2) == largest[0]
    assert by_rank(largest, jnp.zeros(2, bool), 0, 1) == 0

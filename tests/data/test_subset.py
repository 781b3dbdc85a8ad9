"""Seeded, balanced subsets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsparsify_jax import data
from fedsparsify_jax.data.subset import balanced_rows, random_rows, subset_rows
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import Examples


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 8), st.data())
def test_balance_and_nesting(classes: int, each: int, draw: st.DataObject) -> None:
    seed = draw.draw(st.integers(0, 1000))
    labels = np.random.default_rng(seed).permutation(np.repeat(range(classes), each))
    n = draw.draw(st.integers(1, classes * each))
    rows = balanced_rows(labels, n, seed)
    assert len(rows) == n
    assert np.all(np.diff(rows) > 0)  # ascending, hence distinct
    counts = np.bincount(labels[rows], minlength=classes)
    assert counts.max() - counts.min() <= 1
    smaller = balanced_rows(labels, draw.draw(st.integers(1, n)), seed)
    assert set(smaller) <= set(rows)


def test_the_seed_chooses() -> None:
    labels = np.repeat(range(2), 50)
    assert (
        balanced_rows(labels, 20, 1).tolist() == balanced_rows(labels, 20, 1).tolist()
    )
    assert (
        balanced_rows(labels, 20, 1).tolist() != balanced_rows(labels, 20, 2).tolist()
    )


def test_a_subset_keeps_pairs_together() -> None:
    y = np.arange(30) % 3
    examples = Examples(np.arange(30)[:, None] * 10, y)
    chosen = data.balanced_subset(examples, 6, seed=4)
    assert np.bincount(chosen.y).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(chosen.x[:, 0] // 10 % 3, chosen.y)


@pytest.mark.parametrize("n", [0, -1, 5])
def test_sizes_out_of_range(n: int) -> None:
    message = f"a subset of {n} examples .* must be between 1 and 4"
    with pytest.raises(InputError, match=message):
        balanced_rows([0, 0, 1, 1], n)
    with pytest.raises(InputError, match=message):
        random_rows(4, n)


def test_a_class_that_is_too_small() -> None:
    with pytest.raises(
        InputError, match=r"class 1 has 1 examples.* needs 2: at most 2 can be balanced"
    ):
        balanced_rows([0, 0, 0, 1], 4)


def test_rows_by_kind_of_target() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1])
    assert subset_rows(labels, None).tolist() == [0, 1, 2, 3, 4, 5]
    assert sorted(labels[subset_rows(labels, 2)].tolist()) == [0, 1]
    ages = np.linspace(50, 70, 6)
    np.testing.assert_array_equal(subset_rows(ages, 3, 5), random_rows(6, 3, 5))
    assert len(set(random_rows(6, 3, 5).tolist())) == 3

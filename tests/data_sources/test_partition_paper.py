"""Given client sizes, target ranges, groups."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsparsify_jax import data
from fedsparsify_jax.errors import InputError

SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=9)


def test_the_authors_sizes() -> None:
    assert {len(sizes) for sizes in data.BRAIN_AGE_SIZES.values()} == {8}
    assert {sum(sizes) for sizes in data.BRAIN_AGE_SIZES.values()} == {8356}


@settings(max_examples=100, deadline=None)
@given(SIZES, st.integers(0, 300))
def test_proportional_sizes(sizes: list[int], extra: int) -> None:
    n = len(sizes) + extra
    made = data.proportional_sizes(n, sizes)
    assert sum(made) == n
    assert min(made) >= 1
    exact = np.array(sizes) * n / sum(sizes)
    if exact.min() >= 1:
        assert np.all(np.abs(np.array(made) - exact) < 1)


def test_proportional_sizes_by_hand() -> None:
    skewed = data.BRAIN_AGE_SIZES["skewed"]
    assert data.proportional_sizes(8356, skewed) == list(skewed)
    assert data.proportional_sizes(100, skewed) == [29, 21, 16, 11, 9, 6, 5, 3]
    assert data.proportional_sizes(4, [1, 1, 1]) == [2, 1, 1]
    assert data.proportional_sizes(3, [1000, 1, 1]) == [1, 1, 1]


@settings(max_examples=50, deadline=None)
@given(SIZES, st.integers(0, 100))
def test_by_sizes_uses_every_example_once(sizes: list[int], seed: int) -> None:
    parts = data.by_sizes(np.zeros(sum(sizes)), sizes, seed)
    assert [len(part) for part in parts] == sizes
    assert sorted(np.concatenate(parts).tolist()) == list(range(sum(sizes)))


def test_by_sizes_shuffles_by_seed() -> None:
    first, again, other = (
        np.concatenate(data.by_sizes(np.zeros(40), [30, 10], seed)).tolist()
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert first != sorted(first)


@settings(max_examples=50, deadline=None)
@given(SIZES, st.integers(0, 100))
def test_value_skew_gives_ranges(sizes: list[int], seed: int) -> None:
    n = sum(sizes)
    ages = np.random.default_rng(seed).integers(40, 80, n).astype(np.float32)
    parts = data.value_skew(ages, sizes, seed)
    assert [len(part) for part in parts] == sizes
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    for younger, older in itertools.pairwise(parts):
        assert ages[younger].max() <= ages[older].min()


def test_value_skew_gives_ties_by_seed() -> None:
    ages = np.full(20, 60.0)
    held = {tuple(sorted(data.value_skew(ages, [10, 10], s)[0])) for s in range(5)}
    assert len(held) > 1


def test_by_group() -> None:
    parts = data.by_group(np.array(["b", "a", "b", "c"]))
    assert [part.tolist() for part in parts] == [[1], [0, 2], [3]]


@pytest.mark.parametrize("function", [data.by_sizes, data.value_skew])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([2, 2], "client sizes sum to 4, the data has 5 examples.*proportional_sizes"),
        ([5, 0], r"client sizes are \[5, 0\]: expected whole numbers of at least 1"),
        ([2.5, 2.5], "expected whole numbers"),
        ([], "expected one number a client"),
        ([[5]], "expected one number a client"),
    ],
)
def test_sizes_that_cannot_be(function, sizes: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        function(np.arange(5.0), sizes)


def test_other_input_that_cannot_be() -> None:
    with pytest.raises(InputError, match="3 clients for 2 examples"):
        data.proportional_sizes(2, [1, 1, 1])
    with pytest.raises(InputError, match="targets hold NaN"):
        data.value_skew([1.0, np.nan], [1, 1])
    with pytest.raises(InputError, match=r"targets have shape \(2, 1\)"):
        data.value_skew(np.ones((2, 1)), [1, 1])
    with pytest.raises(InputError, match=r"groups have shape \(0,\)"):
        data.by_group([])

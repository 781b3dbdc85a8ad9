"""Partitions: complete, disjoint, reproducible, and the authors' blocks and sizes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsparsify_jax import data
from fedsparsify_jax.errors import InputError

BALANCED = np.repeat(np.arange(10), 60)

# Every partitioner as (labels, num_clients, seed) -> parts.
PARTITIONERS = {
    "iid": data.iid,
    "label_shards": lambda y, n, seed=0: data.label_shards(y, n, 2, seed),
    "dirichlet": lambda y, n, seed=0: data.dirichlet(y, n, 0.5, seed),
    "quantity_skew": lambda y, n, seed=0: data.quantity_skew(y, n, 0.5, seed),
}
every_partitioner = pytest.mark.parametrize("name", PARTITIONERS)

label_arrays = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


def assert_partition(labels, parts, num_clients):
    assert len(parts) == num_clients
    assert min(map(len, parts)) >= 1
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))


def held(labels, parts):
    return [sorted(set(labels[part].tolist())) for part in parts]


def same(parts, others):
    return all(map(np.array_equal, parts, others))


@every_partitioner
def test_every_example_once_and_the_seed_decides(name):
    split = PARTITIONERS[name]
    parts = split(BALANCED, 10, 3)
    assert_partition(BALANCED, parts, 10)
    assert same(parts, split(BALANCED, 10, 3))
    assert not same(parts, split(BALANCED, 10, 4))


@settings(max_examples=60, deadline=None)
@given(label_arrays, st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_iid_chunks_differ_by_at_most_one(labels, clients, seed):
    clients = min(clients, len(labels))
    parts = data.iid(labels, clients, seed)
    assert_partition(labels, parts, clients)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@settings(max_examples=60, deadline=None)
@given(label_arrays, st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_label_shards_partitions_or_says_why(labels, clients, k, seed):
    try:
        parts = data.label_shards(labels, clients, k, seed)
    except InputError as error:
        assert "\n" not in str(error)
        return
    assert_partition(labels, parts, clients)


@settings(max_examples=60, deadline=None)
@given(label_arrays, st.integers(1, 12), st.floats(1e-300, 1e300), st.integers(0, 99))
def test_dirichlet_partitions_or_says_why(labels, clients, alpha, seed):
    clients = min(clients, len(labels))
    try:
        parts = data.dirichlet(labels, clients, alpha, seed)
    except InputError as error:
        assert "use a larger alpha" in str(error)
        return
    assert_partition(labels, parts, clients)


@settings(max_examples=60, deadline=None)
@given(
    label_arrays,
    st.integers(1, 12),
    st.floats(1e-300, 1e300),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_quantity_skew_respects_the_minimum(labels, clients, alpha, least, seed):
    if clients * least > len(labels):
        with pytest.raises(InputError, match="examples"):
            data.quantity_skew(labels, clients, alpha, seed, min_examples=least)
        return
    parts = data.quantity_skew(labels, clients, alpha, seed, min_examples=least)
    assert_partition(labels, parts, clients)
    assert min(map(len, parts)) >= least


def test_alpha_is_the_strength_of_the_skew():
    sizes = {
        alpha: np.std([len(p) for p in data.quantity_skew(BALANCED, 10, alpha, 0)])
        for alpha in (0.1, 100.0)
    }
    assert sizes[0.1] > 5 * sizes[100.0]

    def mean_classes(alpha):
        parts = data.dirichlet(BALANCED, 10, alpha, 0)
        return np.mean([len(classes) for classes in held(BALANCED, parts)])

    assert mean_classes(0.1) < 7 < mean_classes(100.0)


def test_dirichlet_gives_the_wanted_minimum():
    parts = data.dirichlet(BALANCED, 5, 0.3, seed=0, min_examples=40)
    assert_partition(BALANCED, parts, 5)
    assert min(map(len, parts)) >= 40


def test_two_classes_for_ten_clients_are_five_disjoint_pairs():
    parts = data.label_shards(BALANCED, 10, 2)
    pairs = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert held(BALANCED, parts) == [pair for pair in pairs for _ in range(2)]
    assert {len(part) for part in parts} == {60}


def test_five_classes_for_ten_clients_are_two_halves():
    parts = data.label_shards(BALANCED, 10, 5)
    halves = [list(range(5))] * 5 + [list(range(5, 10))] * 5
    assert held(BALANCED, parts) == halves


def test_two_classes_for_a_hundred_clients_are_blocks_of_twenty():
    parts = data.label_shards(BALANCED, 100, 2)
    pairs = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert held(BALANCED, parts) == [pair for pair in pairs for _ in range(20)]
    assert {len(part) for part in parts} == {6}


def test_the_seed_moves_examples_but_not_classes():
    parts, others = (data.label_shards(BALANCED, 10, 2, seed) for seed in (0, 1))
    assert held(BALANCED, parts) == held(BALANCED, others)
    assert not same(parts, others)


@pytest.mark.parametrize(("clients", "k"), [(10, 2), (10, 5), (3, 10), (20, 1)])
def test_unbalanced_classes_still_give_exactly_k_each(clients, k):
    labels = np.asarray(data.load("digits").train.y)
    assert len(set(np.bincount(labels))) > 1  # unbalanced indeed
    parts = data.label_shards(labels, clients, k)
    assert_partition(labels, parts, clients)
    assert {len(classes) for classes in held(labels, parts)} == {k}


@every_partitioner
@pytest.mark.parametrize(
    ("labels", "clients", "message"),
    [
        (np.zeros(3, int), 4, "4 clients for 3 examples.*at most 3"),
        (np.zeros(3, int), 0, "num_clients is 0.*at least 1"),
        (np.zeros((3, 1), int), 2, r"shape \(3, 1\)"),
    ],
)
def test_impossible_federations_are_refused(name, labels, clients, message):
    with pytest.raises(InputError, match=message):
        PARTITIONERS[name](labels, clients)


@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("split", [data.dirichlet, data.quantity_skew])
def test_alpha_must_be_positive_and_finite(split, alpha):
    with pytest.raises(InputError, match=f"alpha is {alpha}: it must be above 0"):
        split(BALANCED, 3, alpha)


@pytest.mark.parametrize("k", [0, -1, 11])
def test_classes_per_client_must_be_possible(k):
    with pytest.raises(InputError, match=f"is {k}: .*between 1 and 10"):
        data.label_shards(BALANCED, 10, k)


def test_chunks_that_cannot_be_dealt_are_refused():
    # 7 x 3 chunks straddle classes. 10 x 3 do not, but the last client finds nothing
    # but three chunks of class 9.
    for clients, last in ((7, 6), (10, 9)):
        message = f"for client {last}: .*divisor of the 10 classes.*multiple"
        with pytest.raises(InputError, match=message):
            data.label_shards(BALANCED, clients, 3)


def test_more_chunks_than_examples_are_refused():
    with pytest.raises(InputError, match="leave some empty"):
        data.label_shards(np.array([0, 0, 1, 1]), 3, 2)


def test_dirichlet_gives_up_with_advice():
    with pytest.raises(InputError, match="use a larger alpha or fewer clients"):
        data.dirichlet(np.zeros(20, int), 20, 0.01)


SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=9)


def test_the_authors_sizes() -> None:
    assert {len(sizes) for sizes in data.BRAIN_AGE_SIZES.values()} == {8}
    assert {sum(sizes) for sizes in data.BRAIN_AGE_SIZES.values()} == {8356}


@settings(max_examples=100, deadline=None)
@given(SIZES, st.integers(0, 300))
def test_proportional_sizes(sizes: list[int], extra: int) -> None:
    n = len(sizes) + extra
    scaled = data.proportional_sizes(n, sizes)
    assert sum(scaled) == n
    assert min(scaled) >= 1
    exact = np.array(sizes) * n / sum(sizes)
    if exact.min() >= 1:
        assert np.all(np.abs(np.array(scaled) - exact) < 1)


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

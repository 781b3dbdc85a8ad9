"""Partitions: complete, disjoint, reproducible, and the authors' block structure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsparsify_jax import data
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import Examples

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


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32])
def test_stack_pads_with_zeros_and_keeps_the_dtype(dtype):
    examples = Examples(
        (1 + np.arange(12)).reshape(6, 2).astype(dtype), np.arange(1, 7, dtype=np.int32)
    )
    parts = [np.array([5]), np.array([0, 2, 4]), np.array([3, 1])]
    clients = data.stack(examples, parts)
    assert clients.x.dtype == dtype and clients.x.shape == (3, 3, 2)
    assert clients.count.tolist() == [1, 3, 2]
    assert clients.y.tolist() == [[6, 0, 0], [1, 3, 5], [4, 2, 0]]
    for client, part in enumerate(parts):
        assert np.array_equal(clients.x[client, : len(part)], examples.x[part])
        assert not np.any(clients.x[client, len(part) :])


def test_stack_refuses_clients_without_examples():
    examples = Examples(np.ones((2, 1), np.float32), np.zeros(2, np.int32))
    with pytest.raises(InputError, match="client 1 has no examples"):
        data.stack(examples, [np.array([0, 1]), np.array([], int)])
    with pytest.raises(InputError, match="at least one client"):
        data.stack(examples, [])


def test_class_table_counts_and_totals():
    labels = np.array([0, 2, 2, 0, 1, 2])
    table = data.class_table(labels, [np.array([0, 1, 2]), np.array([3, 4, 5])])
    rows = [line.split() for line in table.splitlines()]
    assert rows == [
        ["client", "0", "1", "2", "total"],
        ["0", "1", "0", "2", "3"],
        ["1", "1", "1", "1", "3"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1  # columns line up


def test_class_table_counts_the_clients_it_leaves_out():
    labels = np.zeros(25, int)
    table = data.class_table(labels, data.iid(labels, 25), max_rows=20)
    lines = table.splitlines()
    assert len(lines) == 22 and lines[-1] == "... and 5 more clients"

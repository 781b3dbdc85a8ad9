"""Test examples in the proportions of each client's classes."""

import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.errors import InputError

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 5, 2000)
TEST = np.repeat(np.arange(5), 40)


def of_client(tests, k):
    return tests.rows[k, : tests.sizes[k]]


def test_proportions_are_the_clients_and_no_row_is_there_twice():
    parts = data.dirichlet(TRAIN, 20, 0.3, seed=1)
    tests = data.client_tests(TRAIN, parts, TEST, seed=2, most=60)
    for k, part in enumerate(parts):
        rows = of_client(tests, k)
        assert len(set(rows.tolist())) == len(rows) <= 60
        held = np.bincount(TRAIN[part], minlength=5) / len(part)
        counts = np.bincount(TEST[rows], minlength=5)
        assert (np.abs(counts - held * len(rows)) < 1).all()
        # As many as are asked for, or some class of the client's gives all it can.
        full = (counts >= 40 - 1) & (held > 0)
        assert len(rows) == 60 or full.any()


def test_clients_of_the_same_classes_have_other_examples():
    parts = data.iid(TRAIN, 2)
    one, other = (
        set(of_client(data.client_tests(TRAIN, parts, TEST, most=50), k).tolist())
        for k in range(2)
    )
    assert one != other


def test_the_seed_decides():
    parts = data.dirichlet(TRAIN, 10, 0.5)
    draw = [data.client_tests(TRAIN, parts, TEST, seed=s).rows for s in (0, 0, 1)]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert (draw[0] != draw[2]).any()


def test_a_class_that_the_test_set_lacks_is_left_out():
    train, test = np.array([0, 0, 1, 2]), np.array([0, 0, 1])
    tests = data.client_tests(train, [np.array([0, 3]), np.array([3])], test)
    assert sorted(of_client(tests, 0).tolist()) == [0, 1]
    assert tests.sizes.tolist() == [2, 0]


def test_numbers_are_no_classes():
    with pytest.raises(InputError, match="the targets are numbers"):
        data.client_tests(np.ones(3), [np.arange(3)], TEST)

"""What is held out: a share of every class, by seed, and nothing twice."""

import numpy as np
import pytest

from fedsparsify_jax.data import from_arrays, hold_out
from fedsparsify_jax.data.validation import held_out_rows
from fedsparsify_jax.errors import InputError

LABELS = np.repeat([0, 1, 2], [40, 20, 10])


def make(y, task="classification"):
    """Examples that say which row they were."""
    x = np.arange(len(y), dtype=np.float32)[:, None]
    return from_arrays("toy", x, y, x[:1], y[:1], task=task)


def test_every_class_gives_its_share():
    rows = held_out_rows(LABELS, 0.1, seed=3)
    assert np.bincount(LABELS[rows]).tolist() == [4, 2, 1]
    assert (np.diff(rows) > 0).all()


def test_examples_are_either_trained_on_or_held_out():
    dataset = make(LABELS)
    held = hold_out(dataset, 0.3, seed=1)
    both = np.concatenate([held.train.x, held.validation.x]).ravel()
    assert sorted(both) == list(range(70))
    for part in (held.train, held.validation):
        np.testing.assert_array_equal(part.y, LABELS[part.x.ravel().astype(int)])
    assert held.test is dataset.test


def test_the_seed_decides():
    first, again, other = (held_out_rows(LABELS, 0.3, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_numbers_give_their_share_as_a_whole():
    ages = np.linspace(40, 80, 30).astype(np.float32)
    held = hold_out(make(ages, "regression"), 0.1)
    assert len(held.validation.y) == 3 and len(held.train.y) == 27
    assert held.validation.y.dtype == np.float32


def test_nothing_held_out_is_the_data_set_itself():
    dataset = make(LABELS)
    assert hold_out(dataset, 0.0) is dataset


@pytest.mark.parametrize(("fraction", "says"), [(0.001, "holds out none"), (0.99, "l")])
def test_shares_that_cannot_be(fraction, says):
    with pytest.raises(InputError, match=f"--validation-fraction is .*{says}"):
        hold_out(make(LABELS), fraction)

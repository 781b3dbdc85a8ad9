"""The order of numbers, and the terms that follow from a model."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax.deploy import encrypted
from fedsparsify_jax.errors import InputError

MODEL = {
    "params": {
        "b": np.array([10.0, 20.0], np.float32),
        "a": {"w": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)},
    },
    "batch_stats": {"steps": np.int32(5), "mean": np.array(7.0, np.float16)},
    "empty": {},
}
MASKS = {
    "params": {
        "b": np.array([False, True]),
        "a": {"w": np.array([[True, False], [True, True]])},
    },
    "batch_stats": {"steps": np.array(True), "mean": np.array(True)},
    "empty": {},
}


def test_survivors_go_by_sorted_paths_and_in_row_order():
    row = encrypted.pack(MODEL, MASKS)
    assert row.dtype == np.float64
    assert row.tolist() == [7.0, 1.0, 3.0, 4.0, 20.0]


def test_unpacked_numbers_are_where_they_were_and_zero_elsewhere():
    tree = encrypted.unpack(np.array([0.5, 1.0, 2.0, 3.0, 4.0]), MASKS, MODEL)
    assert tree["params"]["a"]["w"].tolist() == [[1, 0], [2, 3]]
    assert tree["params"]["b"].tolist() == [0, 4]
    assert tree["batch_stats"]["mean"] == 0.5
    assert tree["empty"] == {}
    dtypes = [tree["params"]["b"].dtype, tree["batch_stats"]["mean"].dtype]
    assert dtypes == [np.float32, np.float16]


def test_whole_numbers_stay_as_the_receiver_has_them():
    tree = encrypted.unpack(np.zeros(5), MASKS, MODEL)
    assert tree["batch_stats"]["steps"] == 5
    assert tree["batch_stats"]["steps"].dtype == np.int32


def test_arrays_of_jax_and_bfloat16_are_packed():
    tree = {"w": jnp.array([0.5, 1.5, 2.5], jnp.bfloat16)}
    masks = {"w": jnp.array([True, False, True])}
    assert encrypted.pack(tree, masks).tolist() == [0.5, 2.5]
    back = encrypted.unpack(np.array([1.0, 2.0]), masks, tree)["w"]
    assert back.dtype == jnp.bfloat16 and back.tolist() == [1, 0, 2]


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="only one has 'b'"):
        encrypted.pack({"w": np.zeros(2), "b": np.zeros(1)}, {"w": np.ones(2, bool)})
    with pytest.raises(InputError, match="must be bool"):
        encrypted.pack({"w": np.zeros(2)}, {"w": np.ones(2)})
    with pytest.raises(InputError, match="must be bool"):
        encrypted.pack({"w": np.zeros(2)}, {"w": np.ones(3, bool)})


@pytest.mark.parametrize("shape", [(4,), (6,), (1, 5), ()])
def test_another_count_of_numbers_is_refused(shape):
    with pytest.raises(InputError, match="the masks keep 5"):
        encrypted.unpack(np.zeros(shape), MASKS, MODEL)


def test_terms_follow_from_the_model_alone():
    """The digest by hand: a line of name and shape, and packed bits, array by array."""
    terms = encrypted.terms_of(
        {"w": np.array([-4.0, 9.0])}, {"w": np.array([True, False])}, round=2, clients=1
    )
    assert terms.masks == hashlib.sha256(b'["w", [2]]\n\x80').hexdigest()[:16]
    assert (terms.round, terms.count) == (2, 1)
    assert terms.bound >= 4 * 8  # of what survives, and far above it


@pytest.mark.parametrize("clients", [1, 10, 100, 1000])
def test_the_bound_leaves_the_error_of_roundings_below_a_millionth(clients):
    """Each client's is at most half of bound / 2^29; their sum is normal: 5.5 sigma."""
    masks = {"w": np.ones(1, bool)}
    terms = encrypted.terms_of({"w": np.ones(1)}, masks, round=1, clients=clients)
    assert 5.5 * np.sqrt(clients / 12) * terms.bound / 2**29 <= 1e-6
    assert terms.bound > 5


def test_a_bound_can_be_told():
    masks = {"w": np.ones(1, bool)}
    terms = encrypted.terms_of(
        {"w": np.ones(1)}, masks, round=1, clients=9, bound=123.5
    )
    assert terms.bound == 123.5


def test_a_model_of_zeros_has_a_bound():
    masks = {"w": np.ones(1, bool)}
    assert encrypted.terms_of({"w": np.zeros(1)}, masks, round=1, clients=9).bound >= 1


@pytest.mark.parametrize("clients", [0, 1001])
def test_impossible_cohorts_are_refused(clients):
    with pytest.raises(InputError, match="cannot be in one sum"):
        encrypted.terms_of(MODEL, MASKS, round=1, clients=clients)


def test_a_broken_model_has_no_terms():
    masks = {"w": np.ones(1, bool)}
    with pytest.raises(InputError, match="must be a positive number"):
        encrypted.terms_of({"w": np.full(1, np.nan)}, masks, round=1, clients=2)

"""The digits that ship with the package."""

import hashlib
import operator

import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.data.normalization import Normalization
from fedsparsify_jax.errors import InputError

# SHA-256 of the arrays that scikit-learn 1.9.1 gave (see digits.LICENCE.md).
DIGITS = {
    "train.x": "5760f944f9d4583320655eb3932bdbb8a1d7ecccece1d5e8ac73699a93fdf434",
    "train.y": "745d990dc8f80aea98fec6565e5e95a5c7173aad3901f6370806f535f686093d",
    "test.x": "3cc232bd25364446c8646cd9434a26e35ea92e20045d395b2fdd2232a75c9b8f",
    "test.y": "c8a9cf10e14a86796104430df50404c7410c89e40405867682f0a6cf4fc4167c",
}


@pytest.mark.parametrize("name", DIGITS)
def test_digits_are_those_of_scikit_learn(name):
    array = operator.attrgetter(name)(data.load("digits"))
    assert hashlib.sha256(array.tobytes()).hexdigest() == DIGITS[name]


def test_digits_are_the_same_stratified_split_every_time():
    digits, again = data.load("digits"), data.load("digits")
    assert (digits.name, digits.normalization) == ("digits", Normalization(0.0, 16.0))
    assert digits.train.x.shape == (1437, 8, 8) and digits.train.x.dtype == np.uint8
    assert digits.test.x.shape == (360, 8, 8) and digits.test.y.dtype == np.int32
    assert digits.num_classes == 10 and digits.train.x.max() == 16
    for one, other in zip(
        digits.train + digits.test, again.train + again.test, strict=True
    ):
        assert np.array_equal(one, other)
    shares = np.bincount(digits.test.y) / np.bincount(
        np.concatenate([digits.train.y, digits.test.y])
    )
    assert np.all(np.abs(shares - 0.2) < 0.01)


def test_digits_take_no_directory():
    with pytest.raises(InputError, match="takes no --data-dir"):
        data.load("digits", "somewhere")

"""Datasets from arrays: classes, regression, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.data.dataset import from_arrays
from fedsparsify_jax.errors import InputError


def test_classification_is_the_default() -> None:
    made = from_arrays("toy", np.ones((2, 3)), [0, 1], np.ones((1, 3)), [1])
    assert (made.task, made.augment, made.num_classes) == ("classification", None, 2)
    assert data.Dataset(*made[:5]) == made


def test_regression_keeps_float_targets() -> None:
    x = np.ones((2, 3), np.float16)
    made = from_arrays("ages", x, [61, 70], x[:1], [48.25], task="regression")
    assert (made.task, made.num_classes) == ("regression", 1)
    assert made.train.y.dtype == made.test.y.dtype == np.float32
    assert made.test.y.tolist() == [48.25]
    assert made.train.x.dtype == np.float16  # storage is the source's business
    clients = data.stack(made.train, [np.array([1]), np.array([0])])
    assert clients.y.tolist() == [[70.0], [61.0]]
    assert (clients.x.dtype, clients.y.dtype) == (jnp.float16, jnp.float32)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ([1.0, np.nan], {}, "training targets hold NaN or infinity"),
        ([1.0], {}, "training targets have shape .* for 2 examples"),
        (["a", "b"], {}, "training targets have dtype .*expected numbers"),
        ([1.0, 2.0], {"num_classes": 3}, "num_classes is 3: regression has 1 output"),
        ([1.0, 2.0], {"task": "ranking"}, "task is 'ranking': expected"),
    ],
)
def test_bad_regression_data(y: list, options: dict, message: str) -> None:
    options = {"task": "regression"} | options
    with pytest.raises(InputError, match=message):
        from_arrays("ages", np.ones((2, 3)), y, np.ones((1, 3)), [1.0], **options)


def test_an_empty_regression_set() -> None:
    empty = np.ones((0, 3))
    with pytest.raises(InputError, match="the test set is empty"):
        from_arrays("a", np.ones((1, 3)), [1.0], empty, np.ones(0), task="regression")


def test_infinity_far_behind_is_named() -> None:
    x = np.ones((5_000, 2))  # several of the parts that are checked at once
    x[4_999, 1] = np.inf
    with pytest.raises(InputError, match="training inputs hold NaN or infinity"):
        from_arrays("toy", x, [0] * 5_000, np.ones((1, 2)), [0])

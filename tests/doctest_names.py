"""The README's `clients` and `model` for all doctests: `pytest -p doctest_names`."""

import jax
import pytest

from fedsparsify_jax import data, models


@pytest.fixture(scope="session", autouse=True)
def names_of_the_readme(doctest_namespace):
    digits = data.load("digits")
    doctest_namespace["jax"] = jax
    doctest_namespace["clients"] = data.stack(
        digits.train, data.iid(digits.train.y, num_clients=10, seed=0)
    )
    doctest_namespace["model"] = models.build(
        "mlp", input_shape=(8, 8), num_classes=10, preprocess=digits.normalization
    )

"""The README's `clients` and `model` for all doctests: `pytest -p doctest_names`.

They compile quickly, as tests do; numbers that users see are checked on the README,
the examples and the commands of the documentation.
"""

import importlib.util
import re
from pathlib import Path

import compiling  # noqa: F401, before JAX starts
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


NEEDS = {"flower": "flwr"}
"""Packages that the modules of a directory import, where CI does not have them."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out modules whose package is not installed."""
    package = NEEDS.get(collection_path.parent.name)
    if package and importlib.util.find_spec(package) is None:
        return True
    if collection_path.parent.name == "nvflare" and collection_path.suffix == ".py":
        # The other modules of this directory need no package, and have doctests.
        imports = re.search(
            r"^(from|import) nvflare\b", collection_path.read_text(), re.M
        )
        return (bool(imports) and importlib.util.find_spec("nvflare") is None) or None
    return None

"""The conformance table, row by row: a row's programs are compiled once and let go."""

import jax
import pytest
from conformance_rows import ROWS

FILES = ("test_conformance", "test_conformance_programs")


def _row(item: pytest.Item) -> int:
    """The number of the row that a test is of; -1 for a test of none."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return list(ROWS).index(parameters["name"]) if "name" in parameters else -1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of a row beside each other, in the places that they had."""
    places = [n for n, item in enumerate(items) if item.path.stem in FILES]
    by_row = sorted((items[n] for n in places), key=_row)
    for place, item in zip(places, by_row, strict=True):
        items[place] = item


@pytest.fixture(autouse=True, scope="module")
def programs_of_no_other_process():
    """No other process needs the programs of these tests: to store them takes time."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, float("inf"))
    yield
    jax.config.update(name, before)

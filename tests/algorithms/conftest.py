"""The order of the tests of conformance."""

from conformance_rows import ROWS

PLACES = {name: place for place, name in enumerate(ROWS)}


def _place(item) -> int:
    """That of the row that a test is of; tests of no row come first."""
    callspec = getattr(item, "callspec", None)
    return PLACES.get(callspec.params.get("name"), -1) if callspec else -1


def pytest_collection_modifyitems(items):
    """Runs all tests of a row one after another: its programs are traced once."""
    places = [n for n, i in enumerate(items) if i.path.name == "test_conformance.py"]
    ordered = sorted((items[n] for n in places), key=_place)
    for place, item in zip(places, ordered, strict=True):
        items[place] = item

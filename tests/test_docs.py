"""The pages of docs/ are complete, and their links and figures lead somewhere."""

import configparser
import doctest
import inspect
import re
import runpy
import sys
import types
from pathlib import Path

import pytest

import fedsparsify_jax
from fedsparsify_jax.algorithms.registry import ALGORITHMS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
]
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    for page in DOCS.rglob("*.md"):
        assert page.relative_to(DOCS).as_posix() in navigation


@pytest.mark.parametrize("name", fedsparsify_jax.__all__)
def test_every_public_name_is_in_the_api(name):
    pages = [page.read_text("utf-8") for page in (DOCS / "api").glob("*.md")]
    target = getattr(fedsparsify_jax, name)
    if name == "__version__":
        return
    module = getattr(target, "__module__", f"fedsparsify_jax.{name}")
    assert any(f"::: {module}" in page for page in pages)


def test_the_tables_of_algorithms_are_those_of_their_rows_and_headers():
    """If not: ``python tools/algorithms_page.py``."""
    tool = runpy.run_path(str(ROOT / "tools" / "algorithms_page.py"))
    text = (DOCS / "algorithms.md").read_text(encoding="utf-8")
    assert tool["page"](text) == text


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_is_introduced_by_its_header(name):
    """A line, a paper, deviations from it, and what it was held against."""
    header = inspect.getdoc(inspect.getmodule(ALGORITHMS[name].build))
    assert re.match(r"[^\n]+: [^\n]+\.\n\n", header)
    assert re.search(r"arXiv\s+\d{4}\.\d{4,5}", header)
    assert re.search(r"^Deviations.*:\s", header, re.M)
    assert re.search(r"^Checked against: ", header, re.M)


def test_the_version_is_in_one_place():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    version = setup["metadata"]["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[(.+)\]", changes, re.M)[1] == version
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert not re.search(r"^version:", citation, re.M)


def test_the_worked_example_runs(monkeypatch):
    """The algorithm of the page, its doctest, and the tests that the page shows."""
    page = (DOCS / "adding_an_algorithm.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r'```python title="(.+?)"\n(.*?)```', page, re.S))
    (algorithm, source), (tests, checks) = blocks.items()
    assert algorithm.endswith("fedexp.py") and tests.endswith("test_fedexp.py")
    name = "fedsparsify_jax.algorithms.fedexp"
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(source, algorithm, "exec"), module.__dict__)
    outcome = doctest.testmod(module)
    assert outcome.attempted > 5 and outcome.failed == 0
    shown: dict = {}
    exec(compile(checks, tests, "exec"), shown)
    found = [value for key, value in shown.items() if key.startswith("test_")]
    assert len(found) == 2
    for test in found:
        test()

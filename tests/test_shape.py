"""Functions, files and folders keep the shape that docs/style.md promises."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

import fedsparsify_jax

ROOT = Path(fedsparsify_jax.__file__).parent
PACKAGE = "fedsparsify_jax"
FILES = sorted(ROOT.rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# A docstring of a function says what it does: "Returns ...", "Builds ...".
VERB = re.compile(r"(?!(?:Its|This|Always|Besides)\b)[A-Z][a-z]+s\b")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.AST, depth=0):
    """All functions, with the number of functions around each."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FUNCTIONS):
            yield node, depth
        yield from functions(node, depth + isinstance(node, FUNCTIONS))


def lines_of_code(function: ast.AST, source: list[str]) -> int:
    """Lines without docstrings, comments and blank ones."""
    code = set(range(function.lineno, function.end_lineno + 1))
    for node in ast.walk(function):
        if isinstance(node, FUNCTIONS) and ast.get_docstring(node) is not None:
            text = node.body[0]
            code -= set(range(text.lineno, text.end_lineno + 1))
    blank = re.compile(r"\s*(#.*)?$")
    return sum(not blank.match(source[number - 1]) for number in code)


def test_lines_are_counted_without_text():
    source = 'def f():\n    """Says\n    so."""\n    # why\n\n    return 1\n'
    (function, depth), *_ = functions(ast.parse(source))
    assert (lines_of_code(function, source.splitlines()), depth) == (2, 0)


def test_no_function_is_longer_than_sixty_lines_or_three_deep():
    too_long, too_deep, number = [], [], 0
    for path in FILES:
        source = path.read_text(encoding="utf-8").splitlines()
        for function, depth in functions(tree_of(path)):
            number += 1
            name = f"{path.relative_to(ROOT)}: {function.name}"
            lines = lines_of_code(function, source)
            if lines > 60:
                too_long.append(f"{name} has {lines} lines")
            if depth > 2:
                too_deep.append(name)
    assert number > 500
    assert not too_long
    assert not too_deep


def test_docstrings_of_functions_begin_with_a_verb():
    strays = []
    for path in FILES:
        for function, _ in functions(tree_of(path)):
            text = ast.get_docstring(function)
            if text and not VERB.match(text):
                strays.append(f"{path.relative_to(ROOT)}: {function.name}")
    assert not strays


def test_no_docstring_begins_with_a_question():
    question = re.compile(r"(What|Where|How|Whether|Who|Whose|Which|When)\b")
    strays = []
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Module | ast.ClassDef):
                text = ast.get_docstring(node) or ""
                if question.match(text):
                    strays.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert not strays


def importers_of_top_modules():
    importers = defaultdict(set)
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ImportFrom):
                continue
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                room, *rest = name.split(".")
                if room == PACKAGE and rest:
                    importers[rest[0]].add(path)
    return importers


@pytest.mark.parametrize(
    "name",
    sorted(path.stem for path in ROOT.glob("*.py") if not path.stem.startswith("__")),
)
def test_no_module_at_the_top_has_a_single_importer(name):
    others = {
        path
        for path in importers_of_top_modules()[name]
        if path.relative_to(ROOT) != Path("__init__.py")
    }
    assert len(others) > 1 or name == "cli"  # which is the top


def test_a_round_is_read_in_four_files_and_seven_hundred_lines():
    path = (
        "__init__.py",
        "algorithms/fedsparsify_global.py",
        "method.py",
        "engine/round.py",
    )
    lines = [len((ROOT / name).read_text("utf-8").splitlines()) for name in path]
    assert sum(lines) <= 700


def test_no_file_is_longer_than_four_hundred_lines():
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert max(lengths.values()) <= 400

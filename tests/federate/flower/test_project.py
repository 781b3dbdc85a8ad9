"""The project that Flower runs, without Flower."""

import ast
import os
import subprocess
import sys
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.flower import project

SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)


def files(directory):
    return {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_file()
    }


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_-]{0,9}", fullmatch=True), SCALARS))
def test_settings_are_read_back_as_they_are(tmp_path_factory, settings):
    directory = project.write(tmp_path_factory.mktemp("p") / "project", settings)
    content = tomllib.loads((directory / "pyproject.toml").read_text("utf-8"))
    config = content["tool"]["flwr"]["app"]["config"]
    assert config == settings
    assert [type(v) for v in config.values()] == [type(v) for v in settings.values()]


def test_a_project_has_a_package_and_a_readme(tmp_path):
    directory = project.write(tmp_path / "project", {})
    package = "fedsparsify_federation"
    modules = ("__init__", "client_app", "forwarding", "records", "server_app")
    assert files(directory) == {
        "README.md",
        "pyproject.toml",
        *(f"{package}/{name}.py" for name in modules),
    }


def test_only_the_server_of_a_project_needs_the_library(tmp_path):
    directory = project.write(tmp_path / "project", {})
    needing = set()
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and "fedsparsify_jax" in node.module:
                needing.add(path.name)
    assert needing == {"server_app.py"}


def test_the_copied_forwarding_works_alone(tmp_path):
    directory = project.write(tmp_path / "project", {})
    code = "from fedsparsify_federation import forwarding; print(forwarding.LIMIT)"
    process = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": os.fspath(directory)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == "2147483648\n"


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "project").mkdir()
    assert files(project.write(tmp_path / "project", {}))


def test_a_directory_with_files_is_left_as_it_is(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="is not empty: choose another directory"):
        project.write(tmp_path / "project", {})
    assert files(tmp_path) == {"project/mine.txt"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"a.b": 1}, "cannot take the setting 'a.b'"),
        ({"": 1}, "cannot take the setting ''"),
        ({"a": 2**63}, "cannot take a=9223372036854775808"),
        ({"a": [1]}, r"cannot take a=\[1\]"),
        ({"a": None}, "cannot take a=None"),
    ],
)
def test_settings_that_flower_cannot_take_write_nothing(tmp_path, settings, words):
    with pytest.raises(InputError, match=words):
        project.write(tmp_path / "project", settings)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_a_project_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        project.write(tmp_path / "project", {})
    assert not list(tmp_path.iterdir())

"""Where compiled programs are kept."""

from pathlib import Path

import jax
import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.process import compilation_cache


@pytest.fixture
def caching(monkeypatch, tmp_path):
    """JAX as a user has it, with a home of its own."""
    names = (
        "jax_enable_compilation_cache",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_users_cache_by_default(caching):
    found = compilation_cache.enable(None)
    assert found == caching / "cache" / "fedsparsify_jax" / "compiled"
    assert found.is_dir() and jax.config.jax_compilation_cache_dir == str(found)


def test_what_is_asked_for(caching):
    wanted = caching / "mine"
    assert compilation_cache.enable(str(wanted)) == wanted and wanted.is_dir()


def test_what_jax_was_told_is_left_alone(caching):
    jax.config.update("jax_compilation_cache_dir", "/somewhere/else")
    assert compilation_cache.enable(None) == Path("/somewhere/else")
    assert not (caching / "cache").exists()


def test_off_is_off(caching):
    assert compilation_cache.enable("off") is None
    assert not jax.config.jax_enable_compilation_cache
    assert not (caching / "cache").exists()


def test_a_place_that_cannot_be_made(caching, monkeypatch):
    (caching / "file").write_text("")
    with pytest.raises(InputError, match=r"--compilation-cache .* cannot be"):
        compilation_cache.enable(str(caching / "file" / "x"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(caching / "file"))
    assert compilation_cache.enable(None) is None  # nobody asked for that one

"""Strict JAX for every test, and small things that many tests need."""

import gc
import itertools
import os
import tempfile
from pathlib import Path

import compiling  # noqa: F401, before JAX starts
import hypothesis
import jax
import numpy as np
import pytest

from fedsparsify_jax.types import ClientData

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_debug_nans", True)
# Nothing of the user's is read or written: one cache for all processes of a test run.
_SHARED = "FEDSPARSIFY_TEST_PROGRAMS"
if _SHARED not in os.environ:  # the first process, which removes it in the end
    PROGRAMS = tempfile.TemporaryDirectory(prefix="fedsparsify-tests-")
    os.environ[_SHARED] = os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS.name
jax.config.update("jax_compilation_cache_dir", os.environ[_SHARED])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# A compilation may happen in any example, so no deadline; the same examples every time,
# so that a red run is about the change at hand.
hypothesis.settings.register_profile(
    "house", deadline=None, derandomize=True, max_examples=40
)
hypothesis.settings.load_profile("house")


MAPS = Path("/proc/self/maps")
_TESTS = itertools.count()


@pytest.fixture(autouse=True)
def few_programs():
    """Lets go of compiled programs before they are too many.

    Each takes several memory mappings, of which Linux allows a process 65,530; past
    that, compiling crashes. To count them takes 20 ms in the end, so not at every test.
    """
    yield
    if next(_TESTS) % 8 or not MAPS.exists():
        return
    if MAPS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture
def optimized():
    """Compiles as users do."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def make_clients(counts: tuple[int, ...] = (7, 4, 1, 6), seed: int = 0) -> ClientData:
    """Learnable clients of unequal size; padding is huge, so touching it shows."""
    rng = np.random.default_rng(seed)
    length = max(counts)
    x = np.full((len(counts), length, 5), 1e30, np.float32)
    y = np.zeros((len(counts), length), np.int32)
    for client, count in enumerate(counts):
        labels = rng.integers(0, 3, count)
        x[client, :count] = rng.normal(size=(count, 5))
        x[client, np.arange(count), labels] += 2.0
        y[client, :count] = labels
    return ClientData(
        jax.numpy.asarray(x),
        jax.numpy.asarray(y),
        jax.numpy.asarray(counts, jax.numpy.int32),
    )


@pytest.fixture
def make():
    """See `make_clients`."""
    return make_clients


@pytest.fixture
def clients() -> ClientData:
    return make_clients()

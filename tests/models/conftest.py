"""Variables without JAX's random numbers, whose compilation takes a second a shape."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def draw(init: Callable[[jax.Array], Any]) -> Any:
    """Variables of the shapes that ``init(key)`` would give; variances positive."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, like: Any) -> jax.Array:
        positive = "batch_stats" in jax.tree_util.keystr(path)
        low, high = (0.5, 1.0) if positive else (-0.5, 0.5)
        return jnp.asarray(rng.uniform(low, high, like.shape), like.dtype)

    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


@pytest.fixture
def made_up() -> Callable[[Callable[[jax.Array], Any]], Any]:
    return draw

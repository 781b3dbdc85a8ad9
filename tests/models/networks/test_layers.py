"""Pooling by slices against Flax's reduce-window."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax.models.networks.layers import max_pool, mean_pool, with_channels


@pytest.mark.parametrize("space", [(4, 6), (5, 7), (4, 5, 6)])
def test_max_pool_agrees_with_flax_in_value_and_gradient(
    space: tuple[int, ...],
) -> None:
    shape = (2, *space, 3)
    # A permutation has no ties, where the two divide the gradient differently.
    x = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape)
    x = jnp.asarray(x, jnp.float32)
    window = (2,) * len(space)

    def flax(x: jax.Array) -> jax.Array:
        return nn.max_pool(x, window, strides=window)

    np.testing.assert_array_equal(max_pool(x), flax(x))
    weights = jnp.cos(jnp.arange(flax(x).size)).reshape(flax(x).shape)
    ours = jax.grad(lambda x: jnp.sum(weights * max_pool(x)))(x)
    theirs = jax.grad(lambda x: jnp.sum(weights * flax(x)))(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_the_gradient_survives_a_norm_around_it() -> None:
    # A maximum over a reshaped array fails this where XLA does not optimize.
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 8, 8, 2)), jnp.float32)
    kernels = [jnp.asarray(rng.normal(size=(3, 3, *io))) for io in ((2, 4), (4, 4))]

    def norm(x: jax.Array) -> jax.Array:
        x = x - jnp.mean(x, (0, 1, 2), keepdims=True)
        return x / jnp.sqrt(jnp.mean(x**2, (0, 1, 2), keepdims=True) + 1e-3)

    def gradient(pool: Callable[[jax.Array], jax.Array]) -> Any:
        def loss(x: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
            conv = functools.partial(
                jax.lax.conv_general_dilated,
                window_strides=(1, 1),
                padding="SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            middle = pool(nn.relu(norm(conv(x, first))))
            return jnp.sum(jnp.sin(norm(conv(middle, second))))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(x, *kernels)

    flax = gradient(lambda x: nn.max_pool(x, (2, 2), strides=(2, 2)))
    for a, b in zip(gradient(max_pool), flax, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_ties_share_the_gradient() -> None:
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x)))(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_allclose(gradient.ravel(), 0.25)


def test_an_axis_shorter_than_the_window_is_pooled_whole() -> None:
    x = jnp.arange(3.0).reshape(1, 1, 3, 1)
    np.testing.assert_array_equal(max_pool(x).ravel(), [1.0])
    np.testing.assert_array_equal(mean_pool(x, (2, 5)).ravel(), [1.0])


def test_mean_pool_agrees_with_flax(key: jax.Array) -> None:
    x = jax.random.normal(key, (2, 4, 7, 5, 3))
    theirs = nn.avg_pool(x, (2, 3, 2), strides=(2, 3, 2))
    np.testing.assert_allclose(mean_pool(x, (2, 3, 2)), theirs, rtol=1e-5, atol=1e-6)


def test_channels_are_added_only_where_they_are_missing() -> None:
    assert with_channels(jnp.zeros((2, 5, 5)), 2).shape == (2, 5, 5, 1)
    assert with_channels(jnp.zeros((2, 5, 5, 3)), 2).shape == (2, 5, 5, 3)
    assert with_channels(jnp.zeros((2, 5, 5, 5)), 3).shape == (2, 5, 5, 5, 1)

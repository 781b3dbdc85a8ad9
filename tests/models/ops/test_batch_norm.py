"""Batch and instance norm: what padded rows may and may not do."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax.models.ops.batch_norm import EPSILON, BatchNorm, InstanceNorm

LAYERS = [BatchNorm(), InstanceNorm()]


def start(layer: nn.Module, x: jax.Array) -> Any:
    return layer.init(jax.random.key(0), x, train=False)


def train(layer: nn.Module, variables: Any, x: jax.Array, valid: Any = None) -> Any:
    valid = None if valid is None else jnp.asarray(valid)
    return layer.apply(variables, x, train=True, valid=valid, mutable=["batch_stats"])


@pytest.fixture
def x() -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(3.0, 2.0, size=(5, 4, 3, 2)), jnp.float32)


def test_batch_norm_agrees_with_flax(x: jax.Array) -> None:
    ours, theirs = BatchNorm(), nn.BatchNorm(momentum=0.99, epsilon=1e-3)
    variables = start(ours, x)
    for valid in (None, [True, True, False, True, False]):
        mask = None if valid is None else jnp.asarray(valid).reshape(5, 1, 1, 1)
        y, changed = train(ours, variables, x, valid)
        expected, expected_stats = theirs.apply(
            variables,
            x,
            use_running_average=False,
            mask=mask,
            mutable=["batch_stats"],
        )
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
        for name in ("mean", "var"):
            np.testing.assert_allclose(
                changed["batch_stats"][name],
                expected_stats["batch_stats"][name],
                rtol=1e-5,
            )
    variables = variables | changed
    np.testing.assert_allclose(
        ours.apply(variables, x, train=False),
        theirs.apply(variables, x, use_running_average=True),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_padded_rows_change_nothing(layer: nn.Module, x: jax.Array) -> None:
    variables = start(layer, x)
    alone, alone_stats = train(layer, variables, x[:3])
    padded = jnp.concatenate([x[:3], 1e6 * jnp.ones((2, 4, 3, 2))])
    y, stats = train(layer, variables, padded, [True, True, True, False, False])
    np.testing.assert_allclose(y[:3], alone, rtol=1e-5, atol=1e-5)
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(alone_stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    for stat in jax.tree.leaves(stats):
        assert np.all(np.abs(stat) < 10)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_without_a_valid_row_nothing_changes_and_all_is_finite(
    layer: nn.Module, x: jax.Array
) -> None:
    variables = start(layer, x)

    def loss(x: jax.Array) -> Any:
        y, stats = train(layer, variables, x, [False] * 5)
        return jnp.sum(y**2), (y, stats)

    gradient, (y, stats) = jax.grad(loss, has_aux=True)(x)
    assert np.isfinite(gradient).all() and np.isfinite(y).all()
    jax.tree.map(
        np.testing.assert_array_equal, stats["batch_stats"], variables["batch_stats"]
    )


def test_instance_norm_is_about_each_example_alone(x: jax.Array) -> None:
    layer = InstanceNorm()
    variables = start(layer, x)
    assert set(variables) == {"batch_stats"}  # no scale, no shift
    y, stats = train(layer, variables, x)
    mean, var = np.mean(x, axis=(1, 2)), np.var(x, axis=(1, 2))
    expected = (x - mean[:, None, None]) / np.sqrt(var + EPSILON)[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        layer.apply(variables, x, train=False), y, rtol=1e-5, atol=1e-6
    )
    running = stats["batch_stats"]
    np.testing.assert_allclose(running["mean"], 0.01 * mean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(running["var"], 0.99 + 0.01 * var.mean(0), rtol=1e-5)


def test_a_frozen_instance_norm_evaluates_with_the_running_statistics(
    x: jax.Array,
) -> None:
    layer = InstanceNorm(frozen=True)
    variables = start(layer, x)
    y = layer.apply(variables, x, train=False)
    np.testing.assert_allclose(y, x / np.sqrt(1 + EPSILON), rtol=1e-5)
    trained, _ = train(layer, variables, x)
    np.testing.assert_allclose(np.mean(trained, axis=(1, 2)), 0.0, atol=1e-5)

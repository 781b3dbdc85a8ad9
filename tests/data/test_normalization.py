"""Normalisation: one number or one a channel, and the statistics of images."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsparsify_jax.data.normalization import Normalization, channel_normalization
from fedsparsify_jax.errors import InputError


def test_channels_are_normalised_along_the_last_axis() -> None:
    x = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    made = Normalization((1.0, 2.0, 3.0), (1.0, 2.0, 4.0))
    expected = (x - np.array([1.0, 2.0, 3.0])) / np.array([1.0, 2.0, 4.0])
    result = jax.jit(made)(jnp.asarray(x))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_scalar_mean_with_channel_deviation() -> None:
    result = Normalization(2.0, (1.0, 2.0))(jnp.array([[4.0, 4.0]]))
    assert result.tolist() == [[2.0, 1.0]]


def test_normalization_is_hashable_and_survives_json() -> None:
    made = Normalization(np.array([1.0, 2.0]), [3, 4])
    assert made == Normalization((1.0, 2.0), (3.0, 4.0))
    assert hash(made) == hash(Normalization((1.0, 2.0), (3.0, 4.0)))
    again = Normalization(**json.loads(json.dumps(dataclasses.asdict(made))))
    assert again == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.0), "normalization std is 0.0: it must be above 0"),
        ((0.0, (1.0, -1.0)), "it must be above 0"),
        ((np.ones((2, 2)), 1.0), "expected a number or one a channel"),
        (((), 1.0), "expected a number or one a channel"),
        ((float("nan"), 1.0), "normalization mean is nan"),
    ],
)
def test_impossible_normalizations(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Normalization(*arguments)


def test_channel_count_must_fit() -> None:
    with pytest.raises(ValueError, match=r"mean has 2 channels.*\(1, 3\)"):
        Normalization((1.0, 2.0))(jnp.ones((1, 3)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**31))
def test_channel_statistics_are_numpys(n: int, channels: int, seed: int) -> None:
    shape = (n, 3, 2, channels)
    x = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    made = channel_normalization(x)
    np.testing.assert_allclose(made.mean, x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(made.std, x.std((0, 1, 2)), rtol=1e-9)


def test_channel_statistics_of_many_images_are_numpys() -> None:
    # Several of the parts that are added up at once.
    x = np.random.default_rng(0).integers(0, 256, (10_000, 2, 2, 3), dtype=np.uint8)
    made = channel_normalization(x)
    np.testing.assert_allclose(made.mean, x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(made.std, x.std((0, 1, 2)), rtol=1e-9)


def test_dividing_by_255_first_changes_nothing() -> None:
    x = np.random.default_rng(1).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    scaled = x / 255.0
    expected = (scaled - scaled.mean((0, 1, 2))) / scaled.std((0, 1, 2))
    result = channel_normalization(x)(jnp.asarray(x))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_a_constant_channel_becomes_zero() -> None:
    x = np.full((2, 2, 2, 1), 9, np.uint8)
    made = channel_normalization(x)
    assert made == Normalization((9.0,), (1.0,))
    assert not np.any(made(jnp.asarray(x)))


@pytest.mark.parametrize(
    "images",
    [np.ones((2, 4, 4, 3)), np.ones((2, 4, 4), np.uint8), np.ones((0, 4, 4, 3), "u1")],
)
def test_channel_statistics_need_uint8_images(images: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"uint8 images \[n, H, W, C\]"):
        channel_normalization(images)

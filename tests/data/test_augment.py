"""Augmentation: shifts and mirrors of the image, nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax.data.augment import crop_and_flip, random_crop, random_flip


def images(n: int = 3, dtype: str = "uint8") -> jax.Array:
    """Distinct positive pixels, so that every shift and padding shows."""
    numbers = 1 + np.arange(n * 6 * 5 * 2) % 251
    return jnp.asarray(numbers.reshape(n, 6, 5, 2).astype(dtype))


def shifts(image: np.ndarray, pad: int) -> list[bytes]:
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    height, width = image.shape[:2]
    places = range(2 * pad + 1)
    return [
        padded[top : top + height, left : left + width].tobytes()
        for top in places
        for left in places
    ]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_every_crop_is_a_shift(key: jax.Array, dtype: str) -> None:
    x = images(dtype=dtype)
    out = random_crop(key, x, pad=2)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    for before, after in zip(np.asarray(x), np.asarray(out), strict=True):
        assert after.tobytes() in shifts(before, 2)


def test_all_shifts_occur() -> None:
    x = jnp.tile(images(1), (400, 1, 1, 1))
    out = np.asarray(random_crop(jax.random.key(3), x, pad=1))
    occurring = {image.tobytes() for image in out}
    assert occurring == set(shifts(np.asarray(x[0]), 1))


def test_no_padding_is_the_identity(key: jax.Array) -> None:
    np.testing.assert_array_equal(random_crop(key, images(), pad=0), images())


def test_about_half_are_mirrored() -> None:
    x = jnp.tile(images(1), (400, 1, 1, 1))
    out = np.asarray(random_flip(jax.random.key(1), x))
    mirrored = np.array([np.array_equal(i, x[0, :, ::-1]) for i in out])
    kept = np.array([np.array_equal(i, x[0]) for i in out])
    assert np.all(mirrored ^ kept)
    assert 150 < mirrored.sum() < 250  # 5 standard deviations of a fair coin


def test_crop_and_flip_uses_independent_randomness() -> None:
    x = jnp.tile(images(1), (600, 1, 1, 1))
    out = np.asarray(crop_and_flip(jax.random.key(2), x, pad=1))
    plain = shifts(np.asarray(x[0]), 1)
    mirror = [
        np.frombuffer(s, np.uint8).reshape(6, 5, 2)[:, ::-1].tobytes() for s in plain
    ]
    assert {image.tobytes() for image in out} == {*plain, *mirror}  # all 18 pairs


def test_the_key_decides() -> None:
    first, second = jax.random.split(jax.random.key(7))
    x = images(8)
    assert not np.array_equal(crop_and_flip(first, x), crop_and_flip(second, x))
    again = jax.random.split(jax.random.key(7))[0]
    once = crop_and_flip(again, x)
    same = jax.jit(crop_and_flip)(jax.random.split(jax.random.key(7))[0], x)
    np.testing.assert_array_equal(once, same)


def test_inside_vmap_and_scan(key: jax.Array) -> None:
    x = jnp.stack([images(), images()])  # two clients

    def step(carry: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(key, 2)
        return carry, jax.vmap(crop_and_flip)(keys, carry)

    _, out = jax.jit(lambda keys, x: jax.lax.scan(step, x, keys))(
        jax.random.split(key, 3), x
    )
    assert (out.shape, out.dtype) == ((3, *x.shape), jnp.uint8)

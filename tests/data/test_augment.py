"""Augmentation: shifts and mirrors of the image, nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax.data.augment import (
    crop_and_flip,
    random_crop,
    random_flip,
    random_view,
    random_zoom,
)
from fedsparsify_jax.errors import InputError


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


def test_a_zoom_is_a_straight_line_of_a_part_of_the_image(key: jax.Array) -> None:
    """Of pixels that are their column's number: steps of the side, within bounds."""
    ramp = jnp.broadcast_to(jnp.arange(16.0)[:, None], (5, 16, 16, 1))
    zoomed = np.asarray(random_zoom(key, ramp, least=0.25))
    across, down = zoomed[:, 0, :, 0], zoomed[:, :, 3, 0]
    np.testing.assert_allclose(down, np.broadcast_to(down[:, :1], down.shape), 1e-5)
    sides = across[:, 9] - across[:, 8]
    assert ((sides > 0.5) & (sides < 1)).all() and np.ptp(sides) > 0.01
    assert (across >= 0).all() and (across <= 15).all()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_two_views_of_an_image_differ(key: jax.Array, shape: tuple[int, ...]) -> None:
    image = np.arange(np.prod(shape)).reshape(shape) % 256
    x = jnp.asarray(np.stack([image, image]).astype("uint8"))
    views = random_view(key, x)
    assert views.shape == x.shape and views.dtype == x.dtype
    assert float(jnp.mean(views[0] != views[1])) > 0.5


def test_views_of_what_is_no_image_are_refused(key: jax.Array) -> None:
    with pytest.raises(InputError, match=r"views are of images .* shape \(5,\)"):
        random_view(key, jnp.ones((2, 5)))

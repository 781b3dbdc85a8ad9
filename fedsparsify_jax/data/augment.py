"""Augmentation of image batches: pure, jittable, on raw pixels of any dtype."""

import jax
import jax.numpy as jnp

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import Key


def random_crop(key: Key, x: jax.Array, pad: int = 4) -> jax.Array:
    """Pads with black and cuts every image at a random place, to its old size.

    The authors of FedSparsify pad after standardising, that is with the mean colour.

    Args:
      key: consumed.
      x: ``[B, H, W, C]`` of any dtype.
      pad: pixels of zeros added on every side.

    Returns:
      Same shape and dtype; every image is shifted by -pad to +pad in each direction.

    Example:
      >>> x = jnp.ones((3, 8, 8, 1), jnp.uint8)
      >>> random_crop(jax.random.key(0), x, pad=2).shape
      (3, 8, 8, 1)
    """
    size = x.shape[1:]
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corners = jax.random.randint(key, (x.shape[0], 2), 0, 2 * pad + 1)

    def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), size)

    return jax.vmap(cut)(padded, corners)


def random_flip(key: Key, x: jax.Array) -> jax.Array:
    """Mirrors every image left to right with probability 1/2.

    Args:
      key: consumed.
      x: ``[B, H, W, C]`` of any dtype.

    Example:
      >>> x = jnp.arange(2, dtype=jnp.uint8).reshape(1, 1, 2, 1)
      >>> sorted({int(random_flip(jax.random.key(s), x)[0, 0, 0, 0]) for s in range(9)})
      [0, 1]
    """
    flipped = jax.random.bernoulli(key, 0.5, (x.shape[0], 1, 1, 1))
    return jnp.where(flipped, x[:, :, ::-1], x)


def random_zoom(key: Key, x: jax.Array, least: float = 0.3) -> jax.Array:
    """Cuts a random square out of every image, and stretches it to the old size.

    Args:
      key: consumed.
      x: float ``[B, H, W, C]``.
      least: share of an image's area that is cut out at least, drawn evenly up to 1.

    Returns:
      Same shape and dtype, interpolated linearly.

    Example:
      >>> random_zoom(jax.random.key(0), jnp.ones((2, 8, 8, 1))).mean().round(4)
      Array(1., dtype=float32)
    """
    area_key, corner_key = jax.random.split(key)
    side = jnp.sqrt(jax.random.uniform(area_key, (len(x),), minval=least, maxval=1.0))
    size = jnp.array(x.shape[1:3], jnp.float32)
    corner = (
        jax.random.uniform(corner_key, (len(x), 2)) * (1 - side[:, None]) * size[None]
    )

    def zoom(image: jax.Array, side: jax.Array, corner: jax.Array) -> jax.Array:
        scale = jnp.full(2, 1 / side)
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), scale, -corner / side, "linear", antialias=False
        )

    return jax.vmap(zoom)(x, side, corner).astype(x.dtype)


def random_light(key: Key, x: jax.Array, strength: float = 0.4) -> jax.Array:
    """Changes the contrast and the brightness of every image at random.

    Args:
      key: consumed.
      x: float ``[B, H, W, C]``.
      strength: d; both factors are drawn evenly from ``1 - d .. 1 + d``, one for what
        a pixel differs from its image's mean by, one for all of it.
    """
    low, high = 1 - strength, 1 + strength
    factors = jax.random.uniform(key, (2, len(x), 1, 1, 1), minval=low, maxval=high)
    mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    changed = factors[1] * (mean + factors[0] * (x - mean))
    return changed.astype(x.dtype)


def random_view(key: Key, x: jax.Array) -> jax.Array:
    """Zooms into every image, mirrors it and changes its light, at random.

    The views that contrastive learning compares; an image that is in the batch twice
    is two views.

    Args:
      key: consumed.
      x: images ``[B, H, W]`` or ``[B, H, W, C]`` of any dtype; whole numbers are
        rounded, and kept in the range of their dtype.

    Raises:
      InputError: for inputs that are no images.

    References:
      Chen et al., A Simple Framework for Contrastive Learning of Visual Representations
      (arXiv 2002.05709), appendix A: cut, mirror, colour. Here without hue, grey and
      blur, with at least 0.3 of the area where images of 224 pixels have 0.08.

    Example:
      >>> x = jnp.full((2, 28, 28), 100, jnp.uint8)
      >>> out = jax.jit(random_view)(jax.random.key(0), x)
      >>> out.shape, out.dtype
      ((2, 28, 28), dtype('uint8'))
    """
    if x.ndim not in (3, 4):
        raise InputError(
            f"views are of images [H, W] or [H, W, C], the examples have shape "
            f"{x.shape[1:]}"
        )
    images = (x if x.ndim == 4 else x[..., None]).astype(jnp.float32)
    zoom_key, flip_key, light_key = jax.random.split(key, 3)
    images = random_flip(flip_key, random_zoom(zoom_key, images))
    images = random_light(light_key, images).reshape(x.shape)
    if jnp.issubdtype(x.dtype, jnp.integer):
        limits = jnp.iinfo(x.dtype)
        images = jnp.clip(jnp.round(images), limits.min, limits.max)
    return images.astype(x.dtype)


def crop_and_flip(key: Key, x: jax.Array, pad: int = 4) -> jax.Array:
    """Crops at random after padding, then mirrors at random: the usual one for CIFAR.

    Black is padded before normalisation, since batches are augmented as raw pixels.

    Args:
      key: consumed.
      x: ``[B, H, W, C]`` of any dtype.
      pad: see `random_crop`.

    References:
      He et al., Deep Residual Learning (arXiv 1512.03385), section 4.2; the FedSparsify
      code uses it for CIFAR-100, and in its last version for CIFAR-10.

    Example:
      >>> x = jnp.zeros((2, 32, 32, 3), jnp.uint8)
      >>> out = jax.jit(crop_and_flip)(jax.random.key(0), x)
      >>> out.shape, out.dtype
      ((2, 32, 32, 3), dtype('uint8'))
    """
    crop_key, flip_key = jax.random.split(key)
    return random_flip(flip_key, random_crop(crop_key, x, pad))

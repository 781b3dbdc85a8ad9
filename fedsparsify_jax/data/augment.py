"""Augmentation of image batches: pure, jittable, on raw pixels of any dtype."""

import jax
import jax.numpy as jnp

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

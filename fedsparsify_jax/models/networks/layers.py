"""Layers of the paper's networks: dense, convolution, pooling."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from fedsparsify_jax.models.ops.convolution import implementation

GLOROT = nn.initializers.glorot_uniform()
"""Initialisation of kernels: that of the authors' models, and Keras' default."""


def dense(width: int, *, init: Any = GLOROT, name: str | None = None) -> nn.Dense:
    """Builds a dense layer with zero bias.

    Args:
      width: of its outputs.
      init: initialiser of the kernel.
      name: of the layer, by default its class with a number.
    """
    return nn.Dense(width, kernel_init=init, name=name)


def conv(
    features: int,
    window: Sequence[int],
    *,
    method: str,
    strides: int = 1,
    use_bias: bool = True,
    bias: float = 0.0,
    padding: str = "SAME",
    init: Any = GLOROT,
) -> nn.Conv:
    """Builds a convolution with constant bias.

    Args:
      features: O, channels of the output.
      window: size of the kernel along every axis of space.
      method: how it is computed, see `convolution.implementation`.
      strides: along every axis of space.
      use_bias: whether a bias is added.
      bias: its initial value.
      padding: ``"SAME"`` or ``"VALID"``.
      init: initialiser of the kernel.
    """
    return nn.Conv(
        features,
        tuple(window),
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        kernel_init=init,
        bias_init=nn.initializers.constant(bias),
        conv_general_dilated=implementation(method),
    )


def light_head(x: jax.Array, num_classes: int, depth: int) -> jax.Array:
    """Answers in the place of the layers behind the first blocks of a network.

    Means over space and one dense layer, ``head_DEPTH``: the temporary head of
    ProgFed (arXiv 2110.05323). To be called inside a compact module.

    Args:
      x: ``[B, *space, I]``.
      num_classes: C.
      depth: blocks that are before it.

    Returns:
      Logits ``[B, C]``.
    """
    x = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
    return nn.Dense(num_classes, kernel_init=GLOROT, name=f"head_{depth}")(x)


def shallower(module: Any, blocks: int) -> tuple[Any, ...]:
    """Returns the networks that end behind the first block, behind the second, ...

    Args:
      module: of the whole network, with the attribute ``depth``.
      blocks: B, all that it has; there are B - 1 smaller networks.
    """
    if module.depth is not None:
        return ()
    return tuple(module.clone(depth=depth) for depth in range(1, blocks))


def with_channels(x: jax.Array, space: int) -> jax.Array:
    """Adds a channel axis to ``[B, *space]`` inputs that come without one.

    >>> with_channels(jnp.zeros((1, 28, 28)), 2).shape
    (1, 28, 28, 1)
    """
    return x[..., None] if x.ndim == space + 1 else x


def max_pool(x: jax.Array, size: int = 2) -> jax.Array:
    """Takes maxima of non-overlapping windows of ``size`` along every axis of space.

    Entries at the end of an axis that do not fill a window are dropped ("valid"), but
    an axis shorter than the window is pooled whole, so that no image is too small. The
    gradient is divided among ties. Written as the maximum of strided slices, because
    the derivative of XLA's reduce-window, select-and-scatter, is slow inside ``scan``
    on the CPU, and because that of a reduction over a reshaped array came out wrong
    behind a norm when XLA's optimizations are off (jaxlib 0.10.2, CPU).

    Args:
      x: ``[B, *space, C]``.
      size: of a window.

    Returns:
      ``[B, *space', C]`` with every axis of space divided by ``size``.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """
    return _pool(x, [size] * (x.ndim - 2), jnp.maximum)


def overlapping_max_pool(x: jax.Array, size: int = 3, stride: int = 2) -> jax.Array:
    """Takes maxima of windows that begin every ``stride`` entries, padded ("same").

    In slices, as `max_pool`: the derivative of XLA's windows is slow on CPU.

    >>> overlapping_max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0]
    Array([[10., 11.],
           [14., 15.]], dtype=float32)
    """
    for axis in range(1, x.ndim - 1):
        length = x.shape[axis]
        (ends,) = lax.padtype_to_pads((length,), (size,), (stride,), "SAME")
        pads = [ends if other == axis else (0, 0) for other in range(x.ndim)]
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        reach = (-(-length // stride) - 1) * stride + 1
        parts = [
            lax.slice_in_dim(padded, start, start + reach, stride=stride, axis=axis)
            for start in range(size)
        ]
        x = functools.reduce(jnp.maximum, parts)
    return x


def mean_pool(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Takes means of non-overlapping windows, with the edges of `max_pool`.

    >>> mean_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (2, 4))[0, :, :, 0]
    Array([[ 3.5],
           [11.5]], dtype=float32)
    """
    total = _pool(x, window, jnp.add)
    return total / math.prod(map(min, window, x.shape[1:-1]))


def _pool(
    x: jax.Array,
    window: Sequence[int],
    combine: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Combines the entries of every window, one axis of space after the other."""
    for axis, size in enumerate(window, start=1):
        size = min(size, x.shape[axis])
        end = x.shape[axis] // size * size
        parts = [
            lax.slice_in_dim(x, start, end, stride=size, axis=axis)
            for start in range(size)
        ]
        x = functools.reduce(combine, parts)
    return x

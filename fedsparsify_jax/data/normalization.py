"""Raw numbers to what a network sees: standardisation that travels with the model."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.errors import InputError

_CHUNK = 4096  # images widened to 64 bits at once


def _plain(name: str, value: Any) -> float | tuple[float, ...]:
    """Returns a float or a tuple of floats: hashable, and the same again from JSON."""
    array = np.asarray(value, np.float64)
    if array.ndim > 1 or array.size == 0 or not np.isfinite(array).all():
        raise InputError(
            f"normalization {name} is {value}: expected a number or one a channel"
        )
    return float(array) if array.ndim == 0 else tuple(array.tolist())


@dataclasses.dataclass(frozen=True)
class Normalization:
    """``(x - mean) / std``, done inside the jitted step on the source's raw numbers.

    Either number may be a tuple, one entry for each channel of the last axis.

    >>> Normalization(0.0, 256.0)(jnp.array([128], jnp.uint8))
    Array([0.5], dtype=float32)
    >>> Normalization((1.0, 2.0), (1.0, 4.0))(jnp.array([[3, 10]], jnp.uint8))
    Array([[2., 2.]], dtype=float32)
    """

    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _plain(name, getattr(self, name)))
        if np.min(self.std) <= 0:
            raise InputError(f"normalization std is {self.std}: it must be above 0")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Standardises raw inputs ``[B, ...]`` to float32 of the same shape."""
        centred = x.astype(jnp.float32) - _last_axis("mean", self.mean, x)
        return centred / _last_axis("std", self.std, x)


def _last_axis(name: str, value: float | Sequence[float], x: jax.Array) -> Any:
    """Returns ``value`` in a shape that broadcasts against ``x`` without promotion."""
    if not isinstance(value, tuple):
        return value
    if x.ndim == 0 or len(value) != x.shape[-1]:
        raise ValueError(
            f"normalization {name} has {len(value)} channels, the inputs have shape "
            f"{x.shape}: the last axis must hold as many"
        )
    return np.asarray(value, np.float32).reshape((1,) * (x.ndim - 1) + (-1,))


def channel_normalization(images: np.ndarray) -> Normalization:
    """Measures mean and standard deviation of every channel, of TRAINING images only.

    They belong into the model as they are: the test set is standardised by the training
    set's numbers. (The authors' CIFAR code standardises the test set by its own, which
    is not copied here.) Dividing by 255 first would change nothing in the result.

    Computed on the host from exact integer sums, in float64; the deviation is the
    population's (divided by n). A channel that never varies gets deviation 1.

    Args:
      images: uint8 ``[n, H, W, C]``.

    Raises:
      InputError: for another dtype or rank, or no images.

    Example:
      >>> channel_normalization(np.array([[[[0, 7]], [[4, 7]]]], np.uint8))
      Normalization(mean=(2.0, 7.0), std=(2.0, 1.0))
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise InputError(
            f"channel statistics need uint8 images [n, H, W, C], not {images.dtype} "
            f"of shape {images.shape}"
        )
    channels = images.shape[-1]
    count = images.size // channels
    total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].astype(np.int64)
        total += chunk.sum((0, 1, 2))
        squares += np.square(chunk).sum((0, 1, 2))
    # n * sum(x^2) - sum(x)^2 can exceed 64 bits: Python's integers do not.
    spread = [
        count * square - one * one
        for one, square in zip(total.tolist(), squares.tolist(), strict=True)
    ]
    std = np.sqrt(np.array(spread, np.float64)) / count
    return Normalization(tuple(total / count), tuple(np.where(std == 0, 1.0, std)))

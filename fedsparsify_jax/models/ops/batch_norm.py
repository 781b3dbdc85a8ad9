"""Normalisation layers that leave padded rows out of their statistics.

Both keep running statistics in the collection ``batch_stats``, which no method prunes,
with the constants of Keras (momentum .99, epsilon .001) that the authors' models have.
A batch without a single valid row (a client that ran out of data) changes none of them,
and stays finite.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

MOMENTUM = 0.99
"""Share of the old running statistics that an update keeps (Keras' default)."""
EPSILON = 1e-3
"""Added to variances (Keras' default)."""


# Flax's `BatchNorm(mask=...)` gives the same numbers, but in as many lines: without a
# valid row its statistics have to be put back, interceptors (`adapters.layers`) meet a
# subclass twice, and `InstanceNorm`, which Flax has without running statistics only,
# needs the helpers below anyway.
class BatchNorm(nn.Module):
    """Normalises every channel over the batch and space, then scales and shifts.

    Training uses the statistics of the batch's valid rows and moves the running ones
    towards them; evaluation uses the running ones.

    Ioffe and Szegedy, *Batch Normalization*, ICML 2015, arXiv 1502.03167.

    Attributes:
      momentum: share of the old running statistics that an update keeps.
      epsilon: added to the variance.

    Example:
      >>> layer = BatchNorm()
      >>> variables = layer.init(jax.random.key(0), jnp.zeros((1, 2)), train=False)
      >>> x = jnp.array([[0.0, 1.0], [2.0, 1.0], [99.0, 99.0]])
      >>> valid = jnp.array([True, True, False])
      >>> y, changed = layer.apply(variables, x, train=True, valid=valid,
      ...                          mutable=["batch_stats"])
      >>> changed["batch_stats"]["mean"].round(4)
      Array([0.01, 0.01], dtype=float32)
    """

    momentum: float = MOMENTUM
    epsilon: float = EPSILON

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, valid: jax.Array | None = None
    ) -> jax.Array:
        """Normalises inputs ``[B, ..., C]``; valid bool ``[B]``."""
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running = _running(self, channels)
        dtype, x = x.dtype, _at_least_32_bits(x)
        mean, var = (_aligned(old.value, x) for old in running)
        if train:
            rows = _rows(x, valid)
            mean, var = _moments(x, tuple(range(x.ndim - 1)), rows)
            _update(running, (mean, var), rows, self.momentum)
        factor = lax.rsqrt(var + self.epsilon) * _aligned(scale, x)
        return ((x - mean) * factor + _aligned(bias, x)).astype(dtype)


class InstanceNorm(nn.Module):
    """Normalises every channel of every example over space; no scale, no shift.

    The authors write it as Keras' ``BatchNormalization`` over the axes batch and
    channel, for a batch of one, with centre and scale off and always in training mode.
    That has no trainable parameter, but a running mean and variance a channel, which
    follow the statistics of the examples seen and are read only where a network is
    frozen for an inference benchmark. Here any batch size will do: the running
    statistics follow the mean over the valid examples.

    Ulyanov, Vedaldi and Lempitsky, *Instance Normalization*, arXiv 1607.08022.

    Attributes:
      frozen: evaluate with the running statistics instead of the example's own.
      momentum: share of the old running statistics that an update keeps.
      epsilon: added to the variance.

    Example:
      >>> layer = InstanceNorm()
      >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
      >>> variables = layer.init(jax.random.key(0), x, train=False)
      >>> y = layer.apply(variables, x, train=False)
      >>> [round(float(value), 2) for value in y.ravel()]
      [-1.34, -0.45, 0.45, 1.34]
    """

    frozen: bool = False
    momentum: float = MOMENTUM
    epsilon: float = EPSILON

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, valid: jax.Array | None = None
    ) -> jax.Array:
        """Normalises inputs ``[B, *space, C]``; valid bool ``[B]``."""
        running = _running(self, x.shape[-1:])
        dtype, x = x.dtype, _at_least_32_bits(x)
        if self.frozen and not train:
            mean, var = (_aligned(old.value, x) for old in running)
        else:
            mean, var = _moments(x, tuple(range(1, x.ndim - 1)))
        if train:
            rows = _rows(x, valid)
            batch = (_mean(mean, (0,), rows), _mean(var, (0,), rows))
            _update(running, batch, rows, self.momentum)
        return ((x - mean) * lax.rsqrt(var + self.epsilon)).astype(dtype)


def _running(
    layer: nn.Module, channels: tuple[int, ...]
) -> tuple[nn.Variable, nn.Variable]:
    """Returns the layer's running mean and variance, ``[C]`` each."""
    mean = layer.variable("batch_stats", "mean", jnp.zeros, channels)
    var = layer.variable("batch_stats", "var", jnp.ones, channels)
    return mean, var


def _update(
    running: tuple[nn.Variable, nn.Variable],
    batch: tuple[jax.Array, jax.Array],
    rows: jax.Array,
    momentum: float,
) -> None:
    """Moves the running statistics, unless no row of the batch is valid."""
    any_valid = jnp.any(rows)
    for old, new in zip(running, batch, strict=True):
        moved = momentum * old.value + (1 - momentum) * new.ravel()
        old.value = jnp.where(any_valid, moved, old.value)


def _at_least_32_bits(x: jax.Array) -> jax.Array:
    """Returns inputs in a dtype in which sums over a batch keep their digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _aligned(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Reshapes ``[C]`` to ``[1, ..., C]`` with the rank of x."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _rows(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Reshapes ``[B]`` (all valid if absent) to ``[B, 1, ...]`` with the rank of x."""
    if valid is None:
        valid = jnp.ones(x.shape[0], bool)
    return valid.reshape((-1,) + (1,) * (x.ndim - 1))


def _mean(x: jax.Array, axes: tuple[int, ...], rows: jax.Array) -> jax.Array:
    """Averages valid rows over the axes, batch among them; 0 without any."""
    entries = x.size // (x.shape[0] * x.shape[-1])  # a row's, for every channel
    count = jnp.maximum(jnp.sum(rows, dtype=x.dtype), 1) * entries
    return jnp.sum(jnp.where(rows, x, 0), axis=axes, keepdims=True) / count


def _moments(
    x: jax.Array, axes: tuple[int, ...], rows: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Computes mean and variance over the axes, which are kept at length 1.

    In two passes: the difference of E[x^2] and E[x]^2 loses all digits where the mean
    is large.
    """

    def average(values: jax.Array) -> jax.Array:
        if rows is None:
            return jnp.mean(values, axis=axes, keepdims=True)
        return _mean(values, axes, rows)

    mean = average(x)
    return mean, average(jnp.square(x - mean))

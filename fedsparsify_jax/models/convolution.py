"""Convolutions as patches times a matrix, for where XLA's own are slow.

XLA's CPU convolution falls off a cliff inside ``scan`` and when every client of a vmap
has its own kernel; matrix products keep their full speed in both. `patches` therefore
lines the shifted slices of the padded input up along the channels and multiplies once
with the flattened kernel. Its derivative is made of the same: slices transpose to pads,
concatenation to slices, the product to products.

The price is memory: the patches are as many times the input as the kernel has taps.

On accelerators XLA's convolution is the fast one, so `implementation` chooses.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

METHODS = ("auto", "patches", "xla")
"""What `implementation` knows."""


def implementation(conv: str = "auto") -> Any:
    """The function for the argument ``conv_general_dilated`` of ``flax.linen.Conv``.

    Args:
      conv: ``"patches"``, ``"xla"``, or ``"auto"``, which is patches on the CPU
        backend (``jax.default_backend()`` at the time of the call) and XLA elsewhere.

    Raises:
      ValueError: for anything else.

    >>> implementation("xla") is jax.lax.conv_general_dilated
    True
    """
    if conv not in METHODS:
        raise ValueError(f"unknown conv {conv!r}: one of {', '.join(METHODS)}")
    if conv == "auto":
        conv = "patches" if jax.default_backend() == "cpu" else "xla"
    return patches if conv == "patches" else lax.conv_general_dilated


def patches(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """``lax.conv_general_dilated`` for channels-last inputs, as one matrix product.

    Args:
      lhs: inputs ``[B, *space, I]`` with any number of spatial axes.
      rhs: kernel ``[*window, I, O]``.
      window_strides: one an axis of space.
      padding: ``"SAME"``, ``"VALID"``, or a pair an axis of space, none negative.
      lhs_dilation: must be absent or all ones.
      rhs_dilation: distance between the taps of the kernel, one an axis of space.
      dimension_numbers: absent, or what says channels-last to ``lax``.
      feature_group_count: must be 1.
      precision: of the matrix product.

    Returns:
      Outputs ``[B, *space', O]``, equal to XLA's up to the rounding of sums.

    Raises:
      ValueError: for what it does not do, or a window larger than the padded input.

    Example:
      >>> x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))
      >>> patches(x, kernel, (1, 1), "SAME").shape
      (1, 4, 4, 5)
      >>> float(patches(x, kernel, (2, 2), "VALID")[0, 0, 0, 0])
      18.0
    """
    _check(lhs, rhs, lhs_dilation, dimension_numbers, feature_group_count)
    window = rhs.shape[:-2]
    gaps = tuple(rhs_dilation or (1,) * len(window))
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(
            lhs.shape[1:-1], _reach(window, gaps), window_strides, padding
        )
    pads = tuple((low, high) for low, high in padding)
    return _product(lhs, rhs, tuple(window_strides), pads, gaps, precision)


# Jitted, so that a network of many equal layers is traced once for each kind of layer
# and a call outside of jit is one program, not one for every slice.
@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _product(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    gaps: tuple[int, ...],
    precision: Any,
) -> jax.Array:
    """The convolution, with every choice made."""
    if any(low or high for low, high in padding):
        lhs = jnp.pad(lhs, [(0, 0), *padding, (0, 0)])
    window = rhs.shape[:-2]
    reach = _reach(window, gaps)
    space = [
        (size - far) // stride + 1
        for size, far, stride in zip(lhs.shape[1:-1], reach, strides, strict=True)
    ]
    if min(space) < 1:
        raise ValueError(f"a window of {reach} does not fit into {lhs.shape[1:-1]}")
    taps = itertools.product(*map(range, window))
    shifted = [_seen_by(tap, lhs, gaps, space, strides) for tap in taps]
    columns = shifted[0] if len(shifted) == 1 else jnp.concatenate(shifted, axis=-1)
    rows = math.prod((lhs.shape[0], *space))
    product = jnp.matmul(
        columns.reshape(rows, columns.shape[-1]),
        rhs.reshape(-1, rhs.shape[-1]),  # taps before channels, like the columns
        precision=precision,
    )
    return product.reshape(lhs.shape[0], *space, rhs.shape[-1])


def _reach(window: Sequence[int], gaps: Sequence[int]) -> tuple[int, ...]:
    """How far a window extends along every axis."""
    return tuple((k - 1) * gap + 1 for k, gap in zip(window, gaps, strict=True))


def _seen_by(
    tap: Sequence[int],
    x: jax.Array,
    gaps: Sequence[int],
    space: Sequence[int],
    strides: Sequence[int],
) -> jax.Array:
    """What one tap of the kernel meets on its way over x: ``[B, *space, I]``."""
    start = [at * gap for at, gap in zip(tap, gaps, strict=True)]
    limit = [
        first + (size - 1) * stride + 1
        for first, size, stride in zip(start, space, strides, strict=True)
    ]
    return lax.slice(
        x, (0, *start, 0), (x.shape[0], *limit, x.shape[-1]), (1, *strides, 1)
    )


def _check(
    lhs: jax.Array,
    rhs: jax.Array,
    lhs_dilation: Sequence[int] | None,
    dimension_numbers: Any,
    feature_group_count: int,
) -> None:
    if lhs.ndim != rhs.ndim or lhs.shape[-1] != rhs.shape[-2]:
        raise ValueError(
            f"a kernel of shape {rhs.shape} does not fit inputs of shape {lhs.shape}: "
            "[*window, I, O] and [B, *space, I] are needed"
        )
    if feature_group_count != 1:
        raise ValueError(f"feature_group_count is {feature_group_count}: only 1 works")
    if lhs_dilation is not None and any(gap != 1 for gap in lhs_dilation):
        raise ValueError(f"lhs_dilation is {tuple(lhs_dilation)}: only ones work")
    if dimension_numbers is not None:
        last = lhs.ndim - 1
        inside = tuple(range(1, last))
        wanted = lax.ConvDimensionNumbers(
            (0, last, *inside),
            (last, last - 1, *range(last - 1)),
            (0, last, *inside),
        )
        given = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        if given != wanted:
            raise ValueError(f"dimension_numbers is {given}: channels must come last")

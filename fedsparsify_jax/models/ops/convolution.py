"""Convolutions as matrix products, for where XLA's own are slow.

`patches` lines the shifted slices of the padded input up along the channels and
multiplies once with the flattened kernel. Its derivative is made of the same: slices
transpose to pads, concatenation to slices, the product to products. It does any window,
stride and number of axes. `winograd` does most 3x3 convolutions of the networks in half
the time and leaves all others to `patches`. ``README.md`` beside this file says what
either buys, and when `implementation` takes XLA's.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fedsparsify_jax.models.ops import winograd as minimal

METHODS = ("auto", "patches", "winograd", "xla")
"""Names that `implementation` takes."""
FEWEST_CHANNELS = 16
"""With fewer, Winograd's additions cost more than the products they save."""


def implementation(conv: str = "auto") -> Any:
    """Returns the function for the argument ``conv_general_dilated`` of ``nn.Conv``.

    Args:
      conv: ``"patches"``, ``"winograd"``, ``"xla"``, or ``"auto"``, which is
        `by_platform`: ``"winograd"`` in programs for CPUs, ``"xla"`` in all others.

    Raises:
      ValueError: for anything else.

    >>> implementation("xla") is jax.lax.conv_general_dilated
    True
    """
    if conv not in METHODS:
        raise ValueError(f"unknown conv {conv!r}: one of {', '.join(METHODS)}")
    ways = {
        "auto": by_platform,
        "patches": patches,
        "winograd": winograd,
        "xla": lax.conv_general_dilated,
    }
    return ways[conv]


def by_platform(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Computes what `winograd` does, the way of the platform that is compiled for.

    A program for CPUs has `winograd` in it, any other XLA's own convolution, wherever
    it is traced: a machine without an accelerator can lower, compile and export for
    one. Which of the two it is, is known before XLA sees the program.

    Takes the arguments of `patches`, and refuses the same.

    Example:
      >>> x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))
      >>> conv = jax.jit(lambda x, kernel: by_platform(x, kernel, (1, 1), "SAME"))
      >>> for platform in ("cpu", "cuda", "tpu"):
      ...     lowered = conv.trace(x, kernel).lower(lowering_platforms=(platform,))
      ...     print(platform, "stablehlo.convolution" in lowered.as_text())
      cpu False
      cuda True
      tpu True
    """
    if not isinstance(padding, str):
        padding = tuple((low, high) for low, high in padding)
    settings = {"window_strides": tuple(window_strides), "padding": padding, **options}
    hashable = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
    }
    if hashable.get("dimension_numbers") is None:
        hashable["dimension_numbers"] = _channels_last(lhs.ndim)
    return _chosen_by_platform(lhs, rhs, tuple(hashable.items()))


@functools.partial(jax.jit, static_argnums=2)
def _chosen_by_platform(
    lhs: jax.Array, rhs: jax.Array, settings: tuple[tuple[str, Any], ...]
) -> jax.Array:
    """Computes a convolution either way; jitted for the reasons of `_product`."""
    return lax.platform_dependent(
        lhs,
        rhs,
        cpu=functools.partial(winograd, **dict(settings)),
        default=functools.partial(lax.conv_general_dilated, **dict(settings)),
    )


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
    *,
    fewer_products: bool = False,
) -> jax.Array:
    """Computes ``lax.conv_general_dilated``, channels last, as one matrix product.

    Args:
      lhs: inputs ``[B, *space, I]`` with any number of spatial axes.
      rhs: kernel ``[*window, I, O]``.
      window_strides: one an axis of space.
      padding: ``"SAME"``, ``"VALID"``, or a pair an axis of space, none negative.
      lhs_dilation: must be absent or all ones.
      rhs_dilation: distance between the taps of the kernel, one an axis of space.
      dimension_numbers: absent, or those of ``lax`` for channels last.
      feature_group_count: must be 1.
      precision: of the matrix product.
      fewer_products: whether to compute as `winograd` does where that is faster.

    Returns:
      Outputs ``[B, *space', O]``, equal to XLA's up to the rounding of sums.

    Raises:
      ValueError: for other layouts, dilated inputs or groups, and for a window larger
        than the padded input.

    Example:
      >>> x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))
      >>> patches(x, kernel, (1, 1), "SAME").shape
      (1, 4, 4, 5)
      >>> float(patches(x, kernel, (2, 2), "VALID")[0, 0, 0, 0])
      18.0
    """
    _check(lhs, rhs, lhs_dilation, dimension_numbers, feature_group_count)
    strides = tuple(window_strides)
    gaps = tuple(rhs_dilation or (1,) * (rhs.ndim - 2))
    if isinstance(padding, str):
        reach = _reach(rhs.shape[:-2], gaps)
        padding = lax.padtype_to_pads(lhs.shape[1:-1], reach, strides, padding)
    pads = tuple((low, high) for low, high in padding)
    if fewer_products and (how := _plan(lhs, rhs, strides, pads, gaps, precision)):
        return minimal.winograd_3x3(lhs, rhs, how)
    return _product(lhs, rhs, strides, pads, gaps, precision)


def winograd(*args: Any, **options: Any) -> jax.Array:
    """Computes what `patches` does, 3x3 kernels of stride one in fewer products.

    Takes the arguments of `patches`. The faster way is for two axes of space, a window
    of 3x3, no strides or dilation, at least 16 channels on either side, float32 or
    wider, and as many outputs as make up for transforming the kernel. All others are
    left to `patches`, so that any network can be given this function.

    Example:
      >>> x, kernel = jnp.ones((9, 8, 8, 16)), jnp.ones((3, 3, 16, 16))
      >>> winograd(x, kernel, (1, 1), "SAME")[0, :2, :2, 0].round().tolist()
      [[64.0, 96.0], [96.0, 144.0]]
    """
    return patches(*args, **options, fewer_products=True)


def _plan(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    gaps: tuple[int, ...],
    precision: Any,
) -> minimal.Plan | None:
    """Plans Winograd's way; None where it is impossible or takes longer."""
    possible = (
        rhs.shape[:-2] == (3, 3)
        and {*strides, *gaps} == {1}
        and min(rhs.shape[-2:]) >= FEWEST_CHANNELS
        and lhs.dtype == rhs.dtype
        and lhs.dtype in (jnp.float32, jnp.float64)
    )
    return minimal.plan(lhs.shape, (pads[0], pads[1]), precision) if possible else None


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
    """Computes the convolution once every choice is made."""
    # Padding, and the size of what comes out.
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
    # Columns: the entries that every tap meets, side by side.
    taps = itertools.product(*map(range, window))
    shifted = [_met_by(tap, lhs, gaps, space, strides) for tap in taps]
    columns = shifted[0] if len(shifted) == 1 else jnp.concatenate(shifted, axis=-1)
    rows = math.prod((lhs.shape[0], *space))
    product = jnp.matmul(
        columns.reshape(rows, columns.shape[-1]),
        rhs.reshape(-1, rhs.shape[-1]),  # taps before channels, like the columns
        precision=precision,
    )
    return product.reshape(lhs.shape[0], *space, rhs.shape[-1])


def _reach(window: Sequence[int], gaps: Sequence[int]) -> tuple[int, ...]:
    """Returns the extent of a window along every axis."""
    return tuple((k - 1) * gap + 1 for k, gap in zip(window, gaps, strict=True))


def _met_by(
    tap: Sequence[int],
    x: jax.Array,
    gaps: Sequence[int],
    space: Sequence[int],
    strides: Sequence[int],
) -> jax.Array:
    """Returns the entries of x that one tap of the kernel meets: ``[B, *space, I]``."""
    start = [place * gap for place, gap in zip(tap, gaps, strict=True)]
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
        numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        if numbers != _channels_last(lhs.ndim):
            raise ValueError(f"dimension_numbers is {numbers}: channels must come last")


def _channels_last(axes: int) -> lax.ConvDimensionNumbers:
    """Returns the layout ``[B, *space, I]`` with a kernel ``[*window, I, O]``."""
    last = axes - 1
    inside = tuple(range(1, last))
    return lax.ConvDimensionNumbers(
        lhs_spec=(0, last, *inside),
        rhs_spec=(last, last - 1, *range(last - 1)),
        out_spec=(0, last, *inside),
    )

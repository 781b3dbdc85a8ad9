"""3x3 convolutions with a quarter of the multiplications, from linear combinations.

Winograd's minimal filtering F(m x m, 3 x 3) finds an m x m tile of outputs from a tile
of m + 2 inputs a side with (m + 2)^2 products instead of 9 m^2: with x a tile of
inputs, k a kernel, and * product by product, summed over the input channels,

    outputs = A^T [ (G k G^T) * (B^T x B) ] A

A, B and G are small constants. Each of the (m + 2)^2 products is, over all tiles and
channels, one matrix product ``[tiles, I] x [I, O]``, which keeps its full speed inside
``scan`` and under ``vmap``; A and B are a few additions of shifted slices. The
derivative is written out, for it is made of the same: B^T and A^T transposed around
the same matrix products, the combinations of the inputs being kept from the way there.

m is 4 or 2, whichever needs fewer products for the size of the image. The larger tile
loses a digit to its constants: about 1e-5 of the largest output, in float32.

References:
  Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016,
  arXiv 1509.09308.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Matrix = tuple[tuple[float, ...], ...]
Grid = list[list[jax.Array]]
"""Row p, column q: what one of the products takes or gives, for every tile."""
Padding = tuple[tuple[int, int], tuple[int, int]]


class Transform(NamedTuple):
    """The constants of F(m x m, 3 x 3)."""

    inputs: Matrix  # B^T [m + 2, m + 2]
    kernel: Matrix  # G [m + 2, 3]
    outputs: Matrix  # A^T [m, m + 2]


TRANSFORMS = {
    2: Transform(
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        ((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    4: Transform(
        (
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        (
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        (
            (1, 1, 1, 1, 1, 0),
            (0, 1, -1, 2, -2, 0),
            (0, 1, 1, 4, 4, 0),
            (0, 1, -1, 8, -8, 1),
        ),
    ),
}


class Plan(NamedTuple):
    """What is known of a convolution before its arrays."""

    m: int  # outputs of a tile, along either axis
    space: tuple[int, int]  # of the inputs
    outputs: tuple[int, int]  # of the outputs
    tiles: tuple[int, int]
    padding: Padding
    precision: Any

    @property
    def transform(self) -> Transform:
        return TRANSFORMS[self.m]


def plan(space: tuple[int, int], padding: Padding, precision: Any = None) -> Plan:
    """Chooses the tile that needs fewer products for images of this size.

    >>> plan((32, 32), ((1, 1), (1, 1))).m, plan((2, 2), ((1, 1), (1, 1))).m
    (4, 2)
    """
    high, wide = (
        size + sum(pads) - 2 for size, pads in zip(space, padding, strict=True)
    )

    def products(m: int) -> int:
        return math.prod((m + 2) * -(-size // m) for size in (high, wide))

    m = min(TRANSFORMS, key=products)
    tiles = (-(-high // m), -(-wide // m))
    return Plan(m, space, (high, wide), tiles, padding, precision)


@functools.partial(jax.jit, static_argnums=2, inline=False)
def winograd_3x3(x: jax.Array, kernel: jax.Array, how: Plan) -> jax.Array:
    """The convolution with stride one: ``[B, H, W, I]`` to ``[B, H', W', O]``.

    Args:
      x: inputs ``[B, H, W, I]``.
      kernel: ``[3, 3, I, O]``.
      how: from `plan`.

    >>> x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))
    >>> y = winograd_3x3(x, kernel, plan((4, 4), ((1, 1), (1, 1))))
    >>> y.shape, y[0, :2, :2, 0].round(3).tolist()
    ((1, 4, 4, 5), [[8.0, 12.0], [12.0, 18.0]])
    """
    return _convolution(how, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolution(how: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _forward(how, x, kernel)[0]


def _forward(
    how: Plan, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[Grid, jax.Array]]:
    (top, _), (left, _) = how.padding
    reach = [how.m * tiles + 2 for tiles in how.tiles]
    pads = [
        (low, end - low - size)
        for low, end, size in zip((top, left), reach, how.space, strict=True)
    ]
    x = lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)]
    )
    seen = _take_apart(how.transform.inputs, x, how)
    weights = _weights(how, kernel)
    products = [
        [_times(a, b, 1, 0, how) for a, b in zip(*rows, strict=True)]
        for rows in zip(seen, weights, strict=True)
    ]
    y = _put_together(how.transform.outputs, products, x.shape[0], how)
    high, wide = how.outputs
    return y[:, :high, :wide], (seen, kernel)


def _backward(
    how: Plan, kept: tuple[Grid, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    seen, kernel = kept
    high, wide = (m_tiles * how.m for m_tiles in how.tiles)
    fill = (high - dy.shape[1], wide - dy.shape[2])
    if any(fill):
        dy = jnp.pad(dy, ((0, 0), (0, fill[0]), (0, fill[1]), (0, 0)))
    wanted = _take_apart(_transposed(how.transform.outputs), dy, how)
    weights = _weights(how, kernel)
    dweights = [
        _times(a, b, 0, 0, how)
        for rows in zip(seen, wanted, strict=True)
        for a, b in zip(*rows, strict=True)
    ]
    dseen = [
        [_times(a, b, 1, 1, how) for a, b in zip(*rows, strict=True)]
        for rows in zip(wanted, weights, strict=True)
    ]
    dx = _put_together(_transposed(how.transform.inputs), dseen, dy.shape[0], how)
    (top, _), (left, _) = how.padding
    dx = dx[:, top : top + how.space[0], left : left + how.space[1]]
    flat = jnp.stack(dweights).reshape(len(dweights), -1)
    both = _both_axes(how.transform.kernel, kernel.dtype)
    dkernel = jnp.matmul(both.T, flat, precision=how.precision)
    return dx, dkernel.reshape(kernel.shape)


_convolution.defvjp(_forward, _backward)


def _weights(how: Plan, kernel: jax.Array) -> Grid:
    """G k G^T of every pair of channels: ``[I, O]`` for each product."""
    both = _both_axes(how.transform.kernel, kernel.dtype)
    flat = jnp.matmul(both, kernel.reshape(9, -1), precision=how.precision)
    n = how.m + 2
    grid = flat.reshape(n, n, *kernel.shape[2:])
    return [[grid[p, q] for q in range(n)] for p in range(n)]


def _both_axes(matrix: Matrix, dtype: Any) -> jax.Array:
    """A linear map of both axes of a square, flattened: ``[n^2, k^2]``."""
    return jnp.asarray(np.kron(matrix, matrix), dtype)


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _times(a: jax.Array, b: jax.Array, i: int, j: int, how: Plan) -> jax.Array:
    """Matrix product over axis i of a and axis j of b."""
    return lax.dot_general(a, b, (((i,), (j,)), ((), ())), precision=how.precision)


def _take_apart(matrix: Matrix, x: jax.Array, how: Plan) -> Grid:
    """Every tile of x under ``matrix`` from both sides: a grid of ``[tiles, C]``."""
    high, wide = how.tiles
    rows = [_sum(row, _shifted(x, 1, len(row), high, how.m)) for row in matrix]
    return [
        [
            _sum(row, _shifted(part, 2, len(row), wide, how.m)).reshape(-1, x.shape[-1])
            for row in matrix
        ]
        for part in map(lax.optimization_barrier, rows)
    ]


def _shifted(
    x: jax.Array, axis: int, window: int, tiles: int, step: int
) -> list[jax.Array]:
    """The first, second, ... entry of every tile along an axis."""
    last = (tiles - 1) * step + 1
    return [
        lax.slice_in_dim(x, start, start + last, stride=step, axis=axis)
        for start in range(window)
    ]


def _put_together(matrix: Matrix, grid: Grid, batch: int, how: Plan) -> jax.Array:
    """The transpose of `_take_apart`: tiles side by side, added where they overlap."""
    tiles = [[part.reshape(batch, *how.tiles, -1) for part in row] for row in grid]
    columns = [
        [lax.optimization_barrier(_sum(row, column)) for row in matrix]
        for column in zip(*tiles, strict=True)
    ]
    lines = [
        _side_by_side([_sum(row, line) for row in matrix], 2, how.m)
        for line in zip(*columns, strict=True)
    ]
    return _side_by_side(lines, 1, how.m)


def _side_by_side(parts: Sequence[jax.Array], axis: int, step: int) -> jax.Array:
    """Entries of every tile in their places; those past ``step`` in the next tile."""
    extra = len(parts) - step
    if extra:

        def moved(part: jax.Array, tiles: int) -> jax.Array:
            low_high = [(0, 0, 0)] * part.ndim
            low_high[axis] = (tiles, 1 - tiles, 0)
            return lax.pad(part, jnp.zeros((), part.dtype), low_high)

        late = [moved(part, 1) for part in parts[step:]]
        parts = [moved(part, 0) for part in parts[:step]]
        parts[:extra] = [a + b for a, b in zip(parts, late, strict=False)]
    joined = jnp.stack(parts, axis=axis + 1)
    shape = list(parts[0].shape)
    shape[axis] *= step
    return joined.reshape(shape)


def _sum(factors: Sequence[float], parts: Sequence[jax.Array]) -> jax.Array:
    """The sum of factor times part, without what is multiplied by zero."""
    terms = [
        part if factor == 1 else factor * part
        for factor, part in zip(factors, parts, strict=True)
        if factor != 0
    ]
    return functools.reduce(jnp.add, terms)

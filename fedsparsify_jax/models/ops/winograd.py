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

m is 4 or 2, whichever needs fewer products for the size of the image. With m = 4 the
rounding error in float32 is about twice that of adding the products up directly, with
m = 2 the same.

References:
  Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016,
  arXiv 1509.09308.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Matrix = tuple[tuple[float, ...], ...]
Padding = tuple[tuple[int, int], tuple[int, int]]


class Transform(NamedTuple):
    """The constants of F(m x m, 3 x 3)."""

    inputs: Matrix  # B^T [m + 2, m + 2]
    kernel: Matrix  # G [m + 2, 3]
    outputs: Matrix  # A^T [m, m + 2]


def _four(a: float, b: float) -> Transform:
    """Builds F(4 x 4, 3 x 3) from polynomials at 0, a, -a, b, -b and infinity."""
    aa, bb = a * a, b * b
    ends = ((aa * bb, 0, -aa - bb, 0, 1, 0), (0, aa * bb, 0, -aa - bb, 0, 1))
    points = ((a, bb), (-a, bb), (b, aa), (-b, aa))
    inputs = [(0, -p * other, -other, p, 1, 0) for p, other in points]
    shares = [(p, 2 * p * p * (p * p - other)) for p, other in points]
    kernel = [(1 / share, p / share, p * p / share) for p, share in shares]
    powers = [(1, p, p * p, p * p * p) for p, _ in points]
    columns = ((1, 0, 0, 0), *powers, (0, 0, 0, 1))
    return Transform(
        inputs=(ends[0], *inputs, ends[1]),
        kernel=((1 / (aa * bb), 0, 0), *kernel, (0, 0, 1)),
        outputs=tuple(zip(*columns, strict=True)),
    )


TRANSFORMS = {
    2: Transform(
        inputs=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        kernel=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        outputs=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    # The usual points, 1 and 2, lose twice as much to rounding.
    4: _four(0.75, 1.5),
}


class Plan(NamedTuple):
    """The sizes of a convolution, and the tile that was chosen for them."""

    m: int  # outputs of a tile, along either axis
    space: tuple[int, int]  # of the inputs
    outputs: tuple[int, int]  # of the outputs
    padding: Padding
    precision: Any

    @property
    def transform(self) -> Transform:
        return TRANSFORMS[self.m]

    @property
    def tiles(self) -> tuple[int, int]:
        """Counts the tiles along either axis."""
        high, wide = (-(-size // self.m) for size in self.outputs)
        return high, wide

    @property
    def reverse(self) -> "Plan":
        """Returns the plan of the convolution that is the gradient of the inputs."""
        (top, _), (left, _) = self.padding
        (height, width), (high, wide) = self.space, self.outputs
        padding = ((2 - top, height + top - high), (2 - left, width + left - wide))
        return self._replace(space=self.outputs, outputs=self.space, padding=padding)


KERNEL = 50
"""Transforming kernels, there and back, takes the time of this many tiles."""


def plan(
    shape: tuple[int, ...], padding: Padding, precision: Any = None
) -> Plan | None:
    """Chooses the tile that takes the least time, or None where patches take less.

    Args:
      shape: of the inputs ``[B, H, W, I]``.
      padding: before and after either axis of space.
      precision: of the products.

    >>> same = ((1, 1), (1, 1))
    >>> [plan((32, size, size, 64), same).m for size in (32, 8, 4)]
    [4, 4, 2]
    >>> plan((32, 2, 2, 64), same) is None
    True
    """
    batch, *space, _ = shape
    outputs = [size + sum(pads) - 2 for size, pads in zip(space, padding, strict=True)]

    def products(m: int) -> int:
        """Counts the products for every pair of channels."""
        tiles = batch * math.prod(-(-size // m) for size in outputs)
        return (m + 2) ** 2 * (tiles + KERNEL)

    m = min(TRANSFORMS, key=products)
    if min(outputs) < 1 or products(m) >= 9 * batch * math.prod(outputs):
        return None
    (height, width), (high, wide) = space, outputs
    return Plan(
        m=m,
        space=(height, width),
        outputs=(high, wide),
        padding=padding,
        precision=precision,
    )


@functools.partial(jax.jit, static_argnums=2, inline=False)
def winograd_3x3(x: jax.Array, kernel: jax.Array, how: Plan) -> jax.Array:
    """Convolves with stride one: ``[B, H, W, I]`` to ``[B, H', W', O]``.

    Args:
      x: inputs ``[B, H, W, I]``.
      kernel: ``[3, 3, I, O]``.
      how: from `plan`.

    >>> x, kernel = jnp.ones((9, 8, 8, 2)), jnp.ones((3, 3, 2, 5))
    >>> how = plan(x.shape, ((1, 1), (1, 1)))
    >>> y = winograd_3x3(x, kernel, how)
    >>> y.shape, y[0, :2, :2, 0].round().tolist()
    ((9, 8, 8, 5), [[8.0, 12.0], [12.0, 18.0]])
    """
    return _convolution(how, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolution(how: Plan, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _forward(how, x, kernel)[0]


def _forward(
    how: Plan, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    tiles = _take_apart(how.transform.inputs, _framed(x, how), how)
    flat = jnp.matmul(
        _both_axes(how, kernel), kernel.reshape(9, -1), precision=how.precision
    )
    weights = flat.reshape(-1, *kernel.shape[2:])
    products = _times(tiles, weights, (2, 1), how)
    y = _put_together(products, x.shape[0], how)
    high, wide = how.outputs
    return y[:, :high, :wide], (tiles, kernel)


def _backward(
    how: Plan, kept: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    tiles, kernel = kept
    # By the inputs: the convolution of the slopes with the kernel turned around.
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    dx, _ = _forward(how.reverse, dy, turned)
    # By the kernel: the tiles' combinations times those of the slopes.
    ends = (how.m * number for number in how.tiles)
    fill = [(0, end - size) for end, size in zip(ends, how.outputs, strict=True)]
    if any(high for _, high in fill):
        dy = jnp.pad(dy, [(0, 0), *fill, (0, 0)])
    slopes = _take_apart(tuple(zip(*how.transform.outputs, strict=True)), dy, how)
    flat = _times(tiles, slopes, (1, 1), how).reshape(len(tiles), -1)
    dkernel = jnp.matmul(_both_axes(how, kernel).T, flat, precision=how.precision)
    return dx, dkernel.reshape(kernel.shape)


_convolution.defvjp(_forward, _backward)


def _framed(x: jax.Array, how: Plan) -> jax.Array:
    """Pads the inputs, and on to the end of the last tiles."""
    frame = [(0, 0, 0)]
    for (low, _), size, tiles in zip(how.padding, how.space, how.tiles, strict=True):
        frame.append((low, how.m * tiles + 2 - low - size, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), [*frame, (0, 0, 0)])


def _both_axes(how: Plan, kernel: jax.Array) -> jax.Array:
    """Returns G for both sides of flattened 3x3 kernels: ``[(m + 2)^2, 9]``."""
    return jnp.asarray(
        np.kron(how.transform.kernel, how.transform.kernel), kernel.dtype
    )


def _times(a: jax.Array, b: jax.Array, axes: tuple[int, int], how: Plan) -> jax.Array:
    """Multiplies matrices side by side, summed over one axis of either."""
    i, j = axes
    return lax.dot_general(a, b, (((i,), (j,)), ((0,), (0,))), precision=how.precision)


def _take_apart(matrix: Matrix, x: jax.Array, how: Plan) -> jax.Array:
    """Puts ``matrix`` on both sides of every tile of x: ``[n^2, tiles, C]``."""
    high, wide = how.tiles
    columns = _mixed(matrix, _entries(x, 2, len(matrix[0]), wide, how.m))
    columns = lax.optimization_barrier(columns)
    grid = _mixed(matrix, _entries(columns, 2, len(matrix[0]), high, how.m))
    return grid.reshape(len(matrix) ** 2, -1, x.shape[-1])


def _put_together(products: jax.Array, batch: int, how: Plan) -> jax.Array:
    """Joins tiles of outputs ``A^T products A``: ``[B, H, W, O]``."""
    (high, wide), n, matrix = how.tiles, how.m + 2, how.transform.outputs
    grid = products.reshape(n, n, batch, high, wide, -1)
    lines = lax.optimization_barrier(_mixed(matrix, [grid[p] for p in range(n)]))
    tiles = _mixed(matrix, [lines[:, q] for q in range(n)])  # [m, m, B, tiles..., O]
    y = tiles.transpose(2, 3, 1, 4, 0, 5)
    return y.reshape(batch, how.m * high, how.m * wide, -1)


def _entries(
    x: jax.Array, axis: int, window: int, tiles: int, step: int
) -> list[jax.Array]:
    """Returns the first, second, ... entry of every tile along an axis."""
    last = (tiles - 1) * step + 1
    return [
        lax.slice_in_dim(x, start, start + last, stride=step, axis=axis)
        for start in range(window)
    ]


def _mixed(matrix: Matrix, parts: list[jax.Array]) -> jax.Array:
    """Multiplies ``matrix`` by the parts: a combination a row, on a new first axis.

    The stack makes one loop of all combinations, where XLA would compile a loop for
    each, and a network of them for half a minute. Broadcasting a column of factors
    against each part would compile faster yet, but runs several times slower.
    """
    rows = [
        [factor * part for factor, part in zip(row, parts, strict=True) if factor]
        for row in matrix
    ]
    return jnp.stack([functools.reduce(jnp.add, terms) for terms in rows])

"""Compiled loops of `inference_numba.py` over the weights that were not pruned.

Activations of a block of examples lie examples last, ``[channels, places, examples]``
as a flat vector, with a border of zeros around images: a weight of a dense layer, and
of a 3x3 convolution with stride 1 alike, then adds a multiple of one contiguous stretch
of its input to the stretch of its output. ``starts`` says where the stretch of each
weight begins; the weights of an output are padded with zeros to a multiple of four.
"""
# numba cannot read annotations of these loops.
# mypy: disable-error-code="no-untyped-def, misc, attr-defined"

from functools import lru_cache
from typing import Any

import numba  # type: ignore[import-not-found]
import numpy as np


@lru_cache
def tile_of(width: int) -> Any:
    """The sum of weighted stretches, for a fixed length of the stretches."""

    @numba.njit(fastmath=True, error_model="numpy")
    def tile(total, source, first, starts, values, begin, end):
        # Unsigned places: a negative one would have to be tested for, number by number.
        ahead = np.uint64(first)
        for k in range(begin, end, 4):
            a, b, c, d = values[k], values[k + 1], values[k + 2], values[k + 3]
            at, bt = starts[k] + ahead, starts[k + 1] + ahead
            ct, dt = starts[k + 2] + ahead, starts[k + 3] + ahead
            for p in range(np.uint64(width)):
                total[p] += (
                    a * source[at + p]
                    + b * source[bt + p]
                    + c * source[ct + p]
                    + d * source[dt + p]
                )

    @numba.njit(fastmath=True)
    def dot(total, source, first, starts, values, begin, end):
        result = np.float32(0)
        for k in range(begin, end):
            result += values[k] * source[starts[k]]
        total[0] += result

    return dot if width == 1 else tile


@lru_cache
def dense_of(block: int, parallel: bool) -> Any:
    """A chain of dense layers with ReLU between them, a block after the other."""
    tile = tile_of(block)

    @numba.njit(fastmath=True, parallel=parallel, nogil=True)
    def dense(source, sizes, pointers, starts, values, bias, spare, out):
        for number in numba.prange(len(source)):
            x, row, last = source[number], 0, len(sizes) - 1
            for layer in range(len(sizes)):
                y = out[number] if layer == last else spare[number, layer]
                for unit in range(sizes[layer]):
                    total = y[unit * block : (unit + 1) * block]
                    total[:] = bias[row]
                    begin, end = pointers[row], pointers[row + 1]
                    tile(total, x, 0, starts, values, begin, end)
                    if layer < last:
                        for p in range(block):
                            total[p] = max(total[p], np.float32(0))
                    row += 1
                x = y

    return dense


@lru_cache
def load_of(block: int) -> Any:
    """Bytes of examples to floats, examples last, for the inputs that are read."""

    @numba.njit(fastmath=True)
    def load(x, scale, used, places, out):
        for number in range(len(out)):
            for i in range(len(used)):
                for b in range(block):
                    value = np.float32(x[number * block + b, used[i]])
                    out[number, places[i] * block + b] = value * scale

    return load


@lru_cache
def conv_of(block: int, width: int, parallel: bool) -> Any:
    """A convolution with ReLU; ``parts`` share the outputs of each block."""
    tile = tile_of(width)

    @numba.njit(fastmath=True, parallel=parallel)
    def conv(source, height, across, pointers, starts, values, bias, parts, out):
        step = (across + 2) * block
        size, begin_at = (height + 2) * step, step + block
        length = height * step - 2 * block
        units = len(bias)
        for job in numba.prange(len(source) * parts):
            number, part = job // parts, job % parts
            total = np.empty(width, np.float32)
            for first in range(0, length, width):
                stop = min(width, length - first)
                for unit in range(units * part // parts, units * (part + 1) // parts):
                    total[:] = bias[unit]
                    begin, end = pointers[unit], pointers[unit + 1]
                    tile(total, source[number], first, starts, values, begin, end)
                    place = unit * size + begin_at + first
                    for p in range(stop):
                        out[number, place + p] = max(total[p], np.float32(0))
            for unit in range(units * part // parts, units * (part + 1) // parts):
                for y in range(1, height):
                    edge = unit * size + (y + 1) * step - block
                    out[number, edge : edge + 2 * block] = 0

    return conv


@lru_cache
def pool_of(block: int, parallel: bool) -> Any:
    """The largest of 2 x 2 places, scaled and shifted by the channel."""

    @numba.njit(fastmath=True, parallel=parallel)
    def pool(source, height, across, scale, shift, out):
        step, small = (across + 2) * block, (across // 2 + 2) * block
        for number in numba.prange(len(source)):
            for unit in range(len(scale)):
                for y in range(height // 2):
                    for x in range(across // 2):
                        a = unit * (height + 2) * step + (2 * y + 1) * step
                        a += (2 * x + 1) * block
                        to = unit * (height // 2 + 2) * small + (y + 1) * small
                        to += (x + 1) * block
                        for b in range(block):
                            upper = max(
                                source[number, a + b], source[number, a + b + block]
                            )
                            lower = max(
                                source[number, a + step + b],
                                source[number, a + step + b + block],
                            )
                            most = max(upper, lower)
                            out[number, to + b] = most * scale[unit] + shift[unit]

    return pool

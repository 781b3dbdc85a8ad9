"""Positions of bits: as a bitmap, or as the gaps between the few.

The bits are those of one array in row order. A message has the shortest of

* ``bitmap``: the bits, eight a byte, the first of them the highest (NumPy's
  ``packbits``); the last byte is filled with zeros,
* ``ones``: how many zeros stand before each one,
* ``zeros``: how many ones stand before each zero,

the latter two in bytes or in pairs of bytes. The largest number of that width, 255 or
65,535, stands for as many bits of a longer gap, which goes on in the next number.
"""

from typing import NamedTuple

import numpy as np

from fedsparsify_jax.errors import InputError

FORMS = ("bitmap", "ones", "zeros")
_WIDTHS = (np.dtype(np.uint8), np.dtype(np.uint16))


class Positions(NamedTuple):
    """Some bits, written in one of the `FORMS`."""

    form: str
    code: np.ndarray  # 1-D, uint8 or uint16


def write(bits: np.ndarray) -> Positions:
    """Writes bits ``[n]`` in the shortest form.

    >>> write(np.array([True, False, False, True, True, False, False, False, True]))
    Positions(form='bitmap', code=array([152, 128], dtype=uint8))
    >>> write(np.arange(1000) == 300)
    Positions(form='ones', code=array([255,  45], dtype=uint8))
    """
    ones = int(np.count_nonzero(bits))
    few = bits if 2 * ones <= bits.size else ~bits
    form = "ones" if few is bits else "zeros"
    packed = -(-bits.size // 8)
    if min(ones, bits.size - ones) < packed:  # else a bitmap is shorter in any case
        places = np.flatnonzero(few)
        skipped = np.diff(places, prepend=-1) - 1
        size, width = min((_size(skipped, width), width.itemsize) for width in _WIDTHS)
        if size < packed:
            return Positions(form, _gaps(skipped, _WIDTHS[width - 1]))
    return Positions("bitmap", np.packbits(bits))


def read(positions: Positions, length: int, where: str) -> np.ndarray:
    """Reads bits ``[length]`` back.

    Args:
      positions: as they arrived.
      length: how many bits there are.
      where: the array, for errors.

    Raises:
      InputError: if the code is none of so many bits.
    """
    form, code = positions
    widths = _WIDTHS[:1] if form == "bitmap" else _WIDTHS
    if code.ndim != 1 or code.dtype not in widths:
        raise InputError(f"the positions of {where} have a shape or dtype of no form")
    if form == "bitmap":
        return _unpacked(code, length, where)
    places = _places(code, where)
    if len(places) and places[-1] >= length:
        raise InputError(
            f"the positions of {where} reach {places[-1]:,}, it has {length:,} numbers"
        )
    bits = np.full(length, form == "zeros")
    bits[places] = form == "ones"
    return bits


def _unpacked(code: np.ndarray, length: int, where: str) -> np.ndarray:
    if len(code) != -(-length // 8):
        raise InputError(
            f"the bitmap of {where} has {len(code):,} bytes, {length:,} bits need "
            f"{-(-length // 8):,}"
        )
    bits = np.unpackbits(code).view(bool)
    if bits[length:].any():
        raise InputError(f"the bitmap of {where} has ones after its {length:,} bits")
    return bits[:length]


def _size(skipped: np.ndarray, width: np.dtype) -> int:
    """Returns the bytes of a code for gaps."""
    more = int((skipped // np.iinfo(width).max).sum())
    return width.itemsize * (len(skipped) + more)


def _gaps(skipped: np.ndarray, width: np.dtype) -> np.ndarray:
    most = np.iinfo(width).max
    more, last = np.divmod(skipped, most)
    code = np.full(len(skipped) + int(more.sum()), most, width)
    code[np.cumsum(more + 1) - 1] = last
    return code


def _places(code: np.ndarray, where: str) -> np.ndarray:
    """Returns the places ``[k]`` that gaps lead to, ascending, none of them twice."""
    ends = np.flatnonzero(code != np.iinfo(code.dtype).max)
    if len(code) and (not len(ends) or ends[-1] != len(code) - 1):
        raise InputError(f"the positions of {where} end inside a gap")
    return np.cumsum(code, dtype=np.int64)[ends] + np.arange(len(ends))

"""Numbers on the wire: as they are, in fewer bits, or as planes of bytes.

Only float32 is ever sent in fewer bits; other dtypes go as they are.
"""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.errors import InputError

Values = Literal["float32", "float16", "bfloat16", "int8", "int4"]
VALUES: tuple[str, ...] = get_args(Values)
"""Forms in which a message may have the numbers of float32 arrays."""

DTYPES = {
    **{"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2")},
    **{"BF16": np.dtype(jnp.bfloat16), "BOOL": np.dtype(bool)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
"""The container's name of a dtype, to the dtype."""
CODES = {dtype: code for code, dtype in DTYPES.items()}
"""The other way round."""
DTYPE_OF = {
    **{"float32": DTYPES["F32"], "float16": DTYPES["F16"]},
    **{"bfloat16": DTYPES["BF16"], "int8": DTYPES["I8"]},
}
"""One of `VALUES`, to the dtype in which numbers are sent then; int4 has none."""
LEVELS = {"int8": 127, "int4": 7}
"""The largest integer of the values that have a scale."""


class Narrow(NamedTuple):
    """Numbers as they are sent."""

    numbers: np.ndarray  # [k]; int8 for int4 too
    scale: np.ndarray | None  # float32 [1], of int8 and int4


def narrow(
    numbers: np.ndarray, values: str, where: str, scale: np.ndarray | None = None
) -> Narrow:
    """Returns float32 numbers ``[k]`` in the dtype ``values``.

    What is finite stays finite: it becomes the largest number of float16 or bfloat16
    if it is beyond that. An int8 is ``rint(x / scale)`` with ``scale = max|x| / 127``,
    an int4 the same with 7.

    Args:
      numbers: float32.
      values: one of `VALUES`.
      where: the array, for errors.
      scale: float32 of which all numbers are multiples, for int8 and int4.

    Raises:
      InputError: for a NaN or an infinity in int8 or int4, or no multiple of the scale.

    >>> narrow(np.array([1, -0.5, 1e6], np.float32), "float16", "w").numbers.tolist()
    [1.0, -0.5, 65504.0]
    >>> narrow(np.array([1, -0.5, 0], np.float32), "int8", "w").numbers.tolist()
    [127, -64, 0]
    """
    if values == "float32":
        return Narrow(numbers, None)
    if values in LEVELS:
        levels = LEVELS[values]
        if scale is not None:
            return _multiples(numbers, levels, scale, where)
        return _narrow_integers(numbers, levels, where)
    dtype = DTYPE_OF[values]
    with np.errstate(over="ignore", invalid="ignore"):
        sent = numbers.astype(dtype)
    too_large = np.isinf(sent) & np.isfinite(numbers)
    if too_large.any():
        largest = float(jnp.finfo(dtype).max)
        sent[too_large] = np.copysign(largest, numbers[too_large]).astype(dtype)
    return Narrow(sent, None)


def _narrow_integers(numbers: np.ndarray, levels: int, where: str) -> Narrow:
    largest = np.float32(np.max(np.abs(numbers), initial=0))
    if not np.isfinite(largest):
        raise InputError(
            f"{where} has a NaN or an infinity, which int8 and int4 have no number "
            "for: send values as float32 or float16"
        )
    scale = np.float32(float(largest) / levels)
    if largest > 0 and scale == 0:
        scale = np.finfo(np.float32).smallest_subnormal
    if float(scale) * levels > float(np.finfo(np.float32).max):
        scale = np.nextafter(scale, np.float32(0))
    steps = np.rint(numbers.astype(np.float64) / (float(scale) or 1.0))
    return Narrow(steps.clip(-levels, levels).astype(np.int8), scale.reshape(1))


def _multiples(
    numbers: np.ndarray, levels: int, scale: np.ndarray, where: str
) -> Narrow:
    """Returns the integers of numbers that are multiples of a scale, exactly."""
    given = np.asarray(scale, np.float32).reshape(1)
    with np.errstate(invalid="ignore"):  # NaN, which no integer is
        steps = np.rint(numbers.astype(np.float64) / (float(given[0]) or 1.0))
        near = np.abs(steps) <= levels
        codes = np.where(near, steps, 0).astype(np.int8)
        exact = near & (codes.astype(np.float32) * given == numbers)
    if not exact.all():
        raise InputError(
            f"{where} is not -{levels} to {levels} times its scale {given[0]}"
        )
    return Narrow(codes, given)


def widen(sent: Narrow, where: str, levels: int = LEVELS["int8"]) -> np.ndarray:
    """Returns sent numbers as float32.

    Args:
      sent: as they arrived.
      where: the array, for errors.
      levels: the largest integer that the scale may be meant for.

    Raises:
      InputError: if the scale is none.
    """
    if sent.scale is None:
        with np.errstate(invalid="ignore"):  # signalling NaN
            return sent.numbers.astype(np.float32)
    if sent.scale.dtype != np.float32 or sent.scale.shape != (1,):
        raise InputError(f"the scale of {where} is not one float32")
    scale = sent.scale[0]
    if not 0 <= float(scale) * levels <= float(np.finfo(np.float32).max):
        raise InputError(f"the scale of {where} is {scale}, which is none")
    with np.errstate(over="ignore"):  # -128, which nobody sends
        return sent.numbers.astype(np.float32) * scale


def paired(codes: np.ndarray) -> np.ndarray:
    """Returns int4 ``[k]`` as bytes, two in each: the first in the higher four bits.

    Negative ones are in two's complement, and the last byte is filled with zeros.

    >>> paired(np.array([1, -1, 7], np.int8)).tolist()
    [31, 112]
    """
    bits = np.zeros(len(codes) + len(codes) % 2, np.uint8)
    bits[: len(codes)] = codes.view(np.uint8) & 15
    return bits[::2] << 4 | bits[1::2]


def unpaired(packed: np.ndarray, length: int, where: str) -> np.ndarray:
    """Returns the int4 ``[length]`` of bytes, as int8.

    Raises:
      InputError: if these are not so many, or one of them is -8, which has no meaning.
    """
    if packed.dtype != np.uint8 or packed.shape != (-(-length // 2),):
        raise InputError(
            f"the values of {where} are no {length:,} numbers of four bits in bytes"
        )
    bits = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)
    if bits[length:].any() or (bits == 8).any():
        raise InputError(f"the values of {where} have four bits without a meaning")
    return ((bits[:length] ^ 8) - 8).view(np.int8)


def planes(numbers: np.ndarray) -> np.ndarray:
    """Returns the bytes of numbers ``[k]``, byte by byte of a number: ``[size, k]``.

    The first row has the lowest bytes. Exponents are alike, so that they compress when
    they stand together.

    >>> planes(np.array([1, 258], np.uint16)).tolist()
    [[1, 2], [0, 1]]
    """
    pieces = numbers.view(np.uint8).reshape(len(numbers), numbers.dtype.itemsize)
    return np.ascontiguousarray(pieces.T)


def joined(rows: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    """Returns the numbers ``[k]`` of their `planes`.

    Raises:
      InputError: if these are no planes of that dtype.
    """
    if rows.dtype != np.uint8 or rows.ndim != 2 or len(rows) != dtype.itemsize:
        raise InputError(f"the values of {where} are no planes of {dtype}")
    return np.ascontiguousarray(rows.T).reshape(-1).view(dtype)

"""Numbers on the wire: as they are, in fewer bits, or as planes of bytes.

Only float32 is ever sent in fewer bits; other dtypes go as they are.
"""

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.errors import InputError

Values = Literal["float32", "float16", "bfloat16", "int8"]
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
"""One of `VALUES`, to the dtype in which numbers are sent then."""


class Narrow(NamedTuple):
    """Numbers as they are sent."""

    numbers: np.ndarray  # [k]
    scale: np.ndarray | None  # float32 [1], of int8


def narrow(numbers: np.ndarray, values: str, where: str) -> Narrow:
    """Returns float32 numbers ``[k]`` in the dtype ``values``.

    What is finite stays finite: it becomes the largest number of float16 or bfloat16
    if it is beyond that. An int8 is ``rint(x / scale)`` with ``scale = max|x| / 127``.

    Args:
      numbers: float32.
      values: one of `VALUES`.
      where: the array, for errors.

    Raises:
      InputError: for a NaN or an infinity in int8.

    >>> narrow(np.array([1, -0.5, 1e6], np.float32), "float16", "w").numbers.tolist()
    [1.0, -0.5, 65504.0]
    >>> narrow(np.array([1, -0.5, 0], np.float32), "int8", "w").numbers.tolist()
    [127, -64, 0]
    """
    if values == "float32":
        return Narrow(numbers, None)
    if values == "int8":
        return _narrow_int8(numbers, where)
    dtype = DTYPE_OF[values]
    with np.errstate(over="ignore", invalid="ignore"):
        sent = numbers.astype(dtype)
    too_large = np.isinf(sent) & np.isfinite(numbers)
    if too_large.any():
        largest = float(jnp.finfo(dtype).max)
        sent[too_large] = np.copysign(largest, numbers[too_large]).astype(dtype)
    return Narrow(sent, None)


def _narrow_int8(numbers: np.ndarray, where: str) -> Narrow:
    largest = np.float32(np.max(np.abs(numbers), initial=0))
    if not np.isfinite(largest):
        raise InputError(
            f"{where} has a NaN or an infinity, which int8 has no number for: send "
            "values as float32 or float16"
        )
    scale = np.float32(float(largest) / 127)
    if largest > 0 and scale == 0:
        scale = np.finfo(np.float32).smallest_subnormal
    if float(scale) * 127 > float(np.finfo(np.float32).max):
        scale = np.nextafter(scale, np.float32(0))
    steps = np.rint(numbers.astype(np.float64) / (float(scale) or 1.0))
    return Narrow(steps.clip(-127, 127).astype(np.int8), scale.reshape(1))


def widen(sent: Narrow, where: str) -> np.ndarray:
    """Returns sent numbers as float32.

    Raises:
      InputError: if the scale is none.
    """
    if sent.scale is None:
        with np.errstate(invalid="ignore"):  # signalling NaN
            return sent.numbers.astype(np.float32)
    if sent.scale.dtype != np.float32 or sent.scale.shape != (1,):
        raise InputError(f"the scale of {where} is not one float32")
    scale = sent.scale[0]
    if not 0 <= float(scale) * 127 <= float(np.finfo(np.float32).max):
        raise InputError(f"the scale of {where} is {scale}, which is none")
    with np.errstate(over="ignore"):  # -128, which nobody sends
        return sent.numbers.astype(np.float32) * scale


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

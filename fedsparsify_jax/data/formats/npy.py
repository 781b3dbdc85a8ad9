"""The ``.npy`` format, its header checked against the bytes that are there.

NumPy allocates what a header promises; a damaged or hostile one promises anything.
"""

import math
import warnings
from typing import IO, NamedTuple

import numpy as np

from fedsparsify_jax.errors import InputError


class Header(NamedTuple):
    """The dtype and layout that stand before the numbers."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran_order: bool


def read_header(file: IO[bytes], size: int, where: str) -> Header:
    """Reads a header; the file stands at the first number then.

    Args:
      file: at its beginning.
      size: bytes of the whole file.
      where: the file, for errors.

    Raises:
      InputError: for objects, which would have to be unpickled; unless as many bytes
        follow as the header says; or if it cannot be read.

    Example:
      >>> import io
      >>> file = io.BytesIO()
      >>> np.save(file, np.zeros((2, 3), np.uint8))
      >>> _ = file.seek(0)
      >>> read_header(file, len(file.getvalue()), "zeros.npy").shape
      (2, 3)
    """
    try:
        header = _parse(file)
    except Exception as error:  # as many kinds as there are kinds of damage
        raise InputError(f"{where} is not a whole .npy file ({error})") from error
    promised = math.prod(header.shape) * header.dtype.itemsize
    follow = size - file.tell()
    if header.dtype.hasobject:
        raise InputError(f"{where} is not a whole .npy file (pickled objects)")
    if promised != follow or min(header.shape, default=0) < 0:
        raise InputError(
            f"{where} is not a whole .npy file ({follow:,} bytes of data where its "
            f"header says {promised:,})"
        )
    return header


def _parse(file: IO[bytes]) -> Header:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # headers that need mending
        shape, fortran_order, dtype = readers[version](file)
    return Header(dtype=dtype, shape=shape, fortran_order=fortran_order)


def read_array(file: IO[bytes], size: int, where: str) -> np.ndarray:
    """Reads a whole array, read-only.

    Args:
      file: at its beginning.
      size: bytes of the whole file.
      where: the file, for errors.

    Raises:
      InputError: see `read_header`.
    """
    header = read_header(file, size, where)
    flat = np.frombuffer(file.read(), header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran_order else "C")

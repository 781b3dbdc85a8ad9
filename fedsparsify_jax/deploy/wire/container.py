"""The container of a message: safetensors with one text of JSON, in zstd if wished."""

import json
from types import ModuleType
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from fedsparsify_jax.deploy.wire.values import DTYPES
from fedsparsify_jax.errors import InputError, shown

KEY = "fedsparsify"
"""The one entry of the container's metadata."""
LEVEL = 3
"""Of zstd; even level 12 makes messages at most 1 % shorter."""
_ZSTD = b"\x28\xb5\x2f\xfd"
_WINDOW = 2**27  # bytes that zstd may look back; what its own tool allows
Arrays = dict[str, np.ndarray]


def pack(arrays: Arrays, header: dict[str, Any], compress: str | None) -> bytes:
    """Returns the bytes of arrays and a header.

    Args:
      arrays: in C order; their dtypes are among `values.DTYPES`.
      header: what JSON can say.
      compress: ``"zstd"`` or None.

    Raises:
      InputError: if a name is no text, or the header has what JSON has not.
    """
    try:
        text = json.dumps(header, separators=(",", ":"), allow_nan=False)
        contents = save(arrays, {KEY: text})
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"this cannot be written as a message: {error}") from error
    if compress is None:
        return contents
    return _zstandard().ZstdCompressor(level=LEVEL).compress(contents)


def unpack(message: bytes, limit: int) -> tuple[Arrays, dict[str, Any]]:
    """Returns the arrays and the header of a message.

    Args:
      message: whatever arrived.
      limit: bytes that it may have once decompressed.

    Raises:
      InputError: if it is damaged, or too large.
    """
    if message[:4] == _ZSTD:
        message = _decompressed(message, limit)
    try:
        tensors = safetensors.deserialize(message)
        length = int.from_bytes(message[:8], "little")
        header = json.loads(message[8 : 8 + length])["__metadata__"][KEY]
        header = json.loads(header, parse_constant=_no_number)
    except Exception as error:  # safetensors has its own kind, below Exception
        raise InputError(
            f"this is no whole message of fedsparsify ({shown(str(error))})"
        ) from error
    if not isinstance(header, dict):
        raise InputError("this is no message of fedsparsify: its header is no record")
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in DTYPES:
            raise InputError(f"{shown(name)} has the dtype {tensor['dtype']}")
        numbers = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]])
        if numbers.dtype == bool and (numbers.view(np.uint8) > 1).any():
            raise InputError(f"{shown(name)} has bools that are neither 0 nor 1")
        arrays[name] = _shaped(numbers, tensor["shape"], name)
    return arrays, header


def plain(content: bytes) -> Arrays | None:
    """Returns the arrays of a safetensors file of any origin; None for a message.

    Raises:
      InputError: for a damaged file, or numbers of a dtype that NumPy lacks.
    """
    try:
        tensors = safetensors.deserialize(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
    except Exception as error:  # safetensors has its own kind, below Exception
        raise InputError(f"it is damaged ({shown(str(error))})") from error
    if KEY in header.get("__metadata__", {}):
        return None
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in DTYPES:
            raise InputError(f"{shown(name)} has the dtype {tensor['dtype']}")
        numbers = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]])
        arrays[name] = _shaped(numbers, tensor["shape"], name)
    return arrays


def _shaped(numbers: np.ndarray, shape: list[int], name: str) -> np.ndarray:
    try:
        return numbers.reshape(shape)
    except (ValueError, OverflowError) as error:  # above 64 axes, or 2^63
        raise InputError(f"{shown(name)} has the shape {shown(shape)}") from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} in the header")


def _decompressed(message: bytes, limit: int) -> bytes:
    zstandard = _zstandard()
    try:
        size = zstandard.frame_content_size(message)
        if size > limit:
            raise InputError(
                f"this message has {size:,} bytes once decompressed, the limit is "
                f"{limit:,}"
            )
        if size < 0:
            raise InputError("this message does not say its size once decompressed")
        reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        return reader.decompress(message, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise InputError(f"this is no whole message in zstd ({error})") from error


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        raise InputError(
            "compressed messages need the package zstandard: install "
            "fedsparsify_jax[deploy]"
        ) from error
    return zstandard

"""The header of a store of clients: dtypes, shapes and checksums of its arrays.

A store's files are its only copy of what a run trains on, and plain ``.npy`` files have
no checksums of their own: the header has those of the small arrays, of itself, and one
of every client's examples is in ``checksums.npy``.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedsparsify_jax.data.dataset import MOST_CLASSES, Normalization
from fedsparsify_jax.errors import InputError

FORMAT, VERSION = "fedsparsify-population", 2
HEADER = "population.json"
ARRAYS = ("x", "y", "offsets", "checksums", "test_x", "test_y")
SMALL = ("y", "offsets", "checksums", "test_x", "test_y")
"""Arrays with a checksum in the header; that of ``x`` is one a client."""


def checksum(array: np.ndarray) -> int:
    """Computes the CRC-32 of an array's bytes.

    >>> checksum(np.zeros(4, np.uint8))
    558161692
    """
    return zlib.crc32(np.ascontiguousarray(array).data)


def described(array: np.ndarray) -> dict[str, Any]:
    """Returns an array's entry in the header."""
    crc32 = checksum(array)
    return {"dtype": array.dtype.str, "shape": list(array.shape), "crc32": crc32}


def _of_header(header: Mapping[str, Any]) -> int:
    others = {name: entry for name, entry in header.items() if name != "checksum"}
    return zlib.crc32(json.dumps(others, sort_keys=True).encode())


def write_header(directory: Path, entries: Mapping[str, Any]) -> None:
    """Writes a header, whole or not at all.

    Args:
      directory: of the store.
      entries: all but format, version and the header's own checksum.
    """
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION, **entries}
    header["checksum"] = _of_header(json.loads(json.dumps(header)))
    partial = directory / f"{HEADER}.partial"
    partial.write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, directory / HEADER)


def read_header(directory: Path) -> dict[str, Any]:
    """Reads and checks a header; ``normalization`` is a `Normalization` already.

    Raises:
      InputError: if there is none, or it is damaged or of another kind.
    """
    path = directory / HEADER
    if not directory.is_dir():
        raise InputError(f"no directory {directory}")
    try:
        header: Any = json.loads(path.read_text(encoding="utf-8"))
        kind, version = header["format"], header["version"]
    except FileNotFoundError:
        raise InputError(
            f"{directory} has no {HEADER}: it is no store of clients, or its writing "
            "was interrupted"
        ) from None
    except Exception:  # even RecursionError, for brackets without end
        raise InputError(f"{path} is not the header of a store of clients") from None
    if (kind, version) != (FORMAT, VERSION):
        raise InputError(
            f"{path} is of format {kind!r} version {version}: expected {FORMAT!r} "
            f"version {VERSION}"
        )
    try:
        return _checked(header)
    except Exception as error:
        raise InputError(
            f"{path} is not the header of a store of clients, or damaged ({error})"
        ) from None


def _checked(header: dict[str, Any]) -> dict[str, Any]:
    """Returns the header; raises for an entry that is missing or of another kind."""
    if header["checksum"] != _of_header(header):
        raise ValueError("its checksum differs")
    counts = header["clients"], header["num_classes"]
    if not all(type(count) is int and count > 0 for count in counts):
        raise ValueError(f"clients and num_classes are {counts}")
    if header["num_classes"] > MOST_CLASSES:
        raise ValueError(f"num_classes is {header['num_classes']}")
    if header["task"] not in ("classification", "regression"):
        raise ValueError(f"task is {header['task']}")
    for name in ARRAYS:
        array = header["arrays"][name]
        str(array["dtype"]), list(array["shape"])
        if name in SMALL:
            int(array["crc32"])
    normalization = Normalization(**header["normalization"])
    return {**header, "name": str(header["name"]), "normalization": normalization}

"""The user's own arrays from a NumPy ``.npz`` file."""

import zipfile
from pathlib import Path
from typing import Any

from fedsparsify_jax.data.dataset import Dataset, from_arrays
from fedsparsify_jax.data.formats.limits import check_size
from fedsparsify_jax.data.formats.npy import read_array
from fedsparsify_jax.data.formats.tables import first_line
from fedsparsify_jax.errors import InputError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(data_dir: Path | None = None) -> Dataset:
    """Loads ``x_train``, ``y_train``, ``x_test`` and ``y_test`` from an npz file.

    Write one with ``numpy.savez("mine.npz", x_train=..., y_train=..., ...)``; for
    what the arrays must be, see `dataset.from_arrays`. Pickled contents are refused.

    Args:
      data_dir: the file, or a directory that holds exactly one.

    Raises:
      InputError: if the file is missing, damaged, or lacks an array.
    """
    if data_dir is None:
        raise InputError("the data set 'npz' needs --data-dir FILE.npz")
    path = _only_file(data_dir) if data_dir.is_dir() else data_dir
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = _read(path, archive)
    except InputError:
        raise
    except Exception as error:  # damage shows as many kinds, even NotImplementedError
        raise InputError(
            f"{path} is not a readable npz file ({first_line(error)})"
        ) from error
    try:
        return from_arrays(path.stem, **arrays)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    """Reads the four arrays, none of them larger than the file can hold."""
    members = {info.filename: info for info in archive.infolist()}
    missing = [name for name in ARRAYS if f"{name}.npy" not in members]
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}: an npz data set holds "
            f"{', '.join(ARRAYS)}"
        )
    arrays = {}
    for name in ARRAYS:
        member = members[f"{name}.npy"]
        packed = member.compress_type == zipfile.ZIP_DEFLATED
        if not packed and member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed as savez_compressed does not")
        stored = min(member.compress_size, path.stat().st_size)
        where = f"{path} is not a readable npz file: {name}"
        check_size(where, member.file_size, stored, packed=packed)
        with archive.open(member) as file:
            arrays[name] = read_array(file, member.file_size, where)
    return arrays


def _only_file(directory: Path) -> Path:
    files = sorted(directory.glob("*.npz"))
    if len(files) != 1:
        raise InputError(
            f"{directory} holds {len(files)} npz files: name one with --data-dir"
        )
    return files[0]

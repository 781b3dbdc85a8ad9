"""The user's own arrays from a NumPy ``.npz`` file."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedsparsify_jax.data.dataset import Dataset, Task, from_arrays
from fedsparsify_jax.data.formats.limits import check_size
from fedsparsify_jax.data.formats.npy import read_array
from fedsparsify_jax.data.formats.tables import first_line
from fedsparsify_jax.data.labels import numbered
from fedsparsify_jax.data.normalization import Normalization
from fedsparsify_jax.data.owners import Owners, names_of, owners_of
from fedsparsify_jax.errors import InputError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_TARGETS = ("y_train", "y_test")
_CHUNK = 4096  # examples checked at once
_SCALED = 16  # the largest of numbers whose deviation is 1, and more


def load_npz(
    data_dir: Path | None = None, *, client_column: str | None = None
) -> Dataset:
    """Loads ``x_train``, ``y_train``, ``x_test`` and ``y_test`` from an npz file.

    Write one with ``numpy.savez("mine.npz", x_train=..., y_train=..., ...)``; for
    what the arrays must be, see `dataset.from_arrays`. Targets that are floats make it
    a regression. Inputs from 0 to 255 are divided by 255 in whatever dtype they are
    (`pixel_scale`). Names as targets, and whole numbers with gaps, become classes from
    0. Pickled contents are refused.

    Args:
      data_dir: the file, or a directory that holds exactly one.
      client_column: NAME of two further arrays, ``NAME_train`` and perhaps
        ``NAME_test``, with the client of every example; several with commas.

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
            arrays = _read(path, archive, ARRAYS)
            owners = _owners(path, archive, names_of(client_column), arrays)
    except InputError:
        raise
    except Exception as error:  # damage shows as many kinds, even NotImplementedError
        raise InputError(
            f"{path} is not a readable npz file ({first_line(error)})"
        ) from error
    labels = None
    found = [arrays[name] for name in _TARGETS]
    if all(one.dtype.kind in "iuU" and one.ndim == 1 for one in found):
        targets, labels = numbered(found)
        arrays |= dict(zip(_TARGETS, targets, strict=True))
    floats = all(arrays[name].dtype.kind == "f" for name in _TARGETS)
    try:
        task: Task = "regression" if floats else "classification"
        dataset = from_arrays(path.stem, **arrays, task=task)
        scale = pixel_scale(dataset.train.x, dataset.test.x)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return dataset._replace(
        normalization=Normalization(0.0, scale), owners=owners, labels=labels
    )


def _owners(
    path: Path,
    archive: zipfile.ZipFile,
    columns: tuple[str, ...],
    arrays: dict[str, Any],
) -> Owners | None:
    """Reads the clients that arrays name; None without any."""
    if not columns:
        return None
    there = {info.filename for info in archive.infolist()}
    splits = ["train"]
    if all(f"{column}_test.npy" in there for column in columns):
        splits.append("test")
    found = {}
    for column in columns:
        names = [f"{column}_{split}" for split in splits]
        read = _read(path, archive, names)
        for name, split in zip(names, splits, strict=True):
            if read[name].shape != arrays[f"y_{split}"].shape:
                raise InputError(
                    f"{path}: {name} has shape {read[name].shape}, y_{split} "
                    f"{arrays[f'y_{split}'].shape}"
                )
        found[column] = np.concatenate([read[name] for name in names])
    clients, owners = owners_of(str(path), found)
    train, test = np.split(owners, [len(arrays["y_train"])])
    return Owners(clients, train, test if len(splits) > 1 else None)


class _Span(NamedTuple):
    """Facts about the inputs of one split."""

    low: float
    high: float
    whole: bool  # no fractions
    image: bool  # uint8, or with more than one axis an example

    @property
    def in_bytes(self) -> bool:
        """Returns whether all of it could be read from bytes of pixels."""
        return self.low >= 0 and self.high <= 255 and (self.whole or self.image)

    @property
    def is_unit(self) -> bool:
        """Returns whether it looks scaled: to 0 to 1, or to a deviation of 1."""
        size = max(-self.low, self.high)
        return 0 < size <= 1 or (size <= _SCALED and not self.whole)


def _span(x: np.ndarray) -> _Span:
    starts = range(0, len(x), _CHUNK)
    return _Span(
        low=float(x.min()),
        high=float(x.max()),
        whole=x.dtype.kind in "iu"
        or all(bool((x[n : n + _CHUNK] % 1 == 0).all()) for n in starts),
        image=x.ndim > 2,
    )


def pixel_scale(train: np.ndarray, test: np.ndarray) -> float:
    """Returns what inputs of both splits are divided by: 255 for pixels, or 1.

    Pixels are uint8, or numbers of any dtype from 0 to a highest one of 128 to 255
    that are whole or have the axes of an image.

    Args:
      train: ``[n, ...]`` inputs, checked.
      test: those of the test set.

    Raises:
      InputError: for one split of pixels and one that is scaled already.

    Example:
      >>> raw = np.array([[0.0, 255.0]])
      >>> pixel_scale(raw, raw), pixel_scale(raw / 255, raw / 255)
      (255.0, 1.0)
    """
    if train.dtype == test.dtype == np.uint8:
        return 255.0
    spans = {"training": _span(train), "test": _span(test)}
    pixels = {
        name: x.dtype == np.uint8 or (spans[name].in_bytes and spans[name].high > 127)
        for name, x in (("training", train), ("test", test))
    }
    for name, other in (("training", "test"), ("test", "training")):
        if pixels[name] and spans[name].high > 1 and spans[other].is_unit:
            raise InputError(
                f"{name} inputs go from {spans[name].low:g} to {spans[name].high:g}, "
                f"{other} inputs from {spans[other].low:.4g} to "
                f"{spans[other].high:.4g}: give both the same scale"
            )
    raw = any(pixels.values()) and all(span.in_bytes for span in spans.values())
    return 255.0 if raw else 1.0


def _read(path: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> dict[str, Any]:
    """Reads arrays, none of them larger than the file can hold."""
    members = {info.filename: info for info in archive.infolist()}
    missing = [name for name in names if f"{name}.npy" not in members]
    if missing and list(names) != list(ARRAYS):
        has = ", ".join(name.removesuffix(".npy") for name in members)
        raise InputError(f"{path} has no array {missing[0]}: it has {has}")
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}: an npz data set holds "
            f"{', '.join(ARRAYS)}"
        )
    arrays = {}
    for name in names:
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

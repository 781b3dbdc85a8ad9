"""CIFAR-10 and CIFAR-100: hub parquet files, official binary files, or the hub."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedsparsify_jax.data.augment import crop_and_flip
from fedsparsify_jax.data.dataset import Dataset, from_arrays
from fedsparsify_jax.data.formats.columns import image_column, label_column
from fedsparsify_jax.data.formats.idx import read_bytes
from fedsparsify_jax.data.formats.tables import require_split
from fedsparsify_jax.data.normalization import channel_normalization
from fedsparsify_jax.data.sources.hub import open_splits
from fedsparsify_jax.data.subset import subset_rows
from fedsparsify_jax.errors import InputError

SHAPE = (32, 32, 3)
_PIXELS = 3 * 32 * 32


class BinaryLayout(NamedTuple):
    """The official binary version: label bytes, then pixels plane by plane (RGB)."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    train_records: int  # in each training file
    test_records: int
    label_classes: tuple[int, ...]  # classes of each label byte of a record


class Source(NamedTuple):
    """One of the three data sets: where its labels are, in either format."""

    name: str
    layout: BinaryLayout
    label_byte: int
    hub: str
    label_column: str

    @property
    def num_classes(self) -> int:
        return self.layout.label_classes[self.label_byte]


CIFAR10 = Source(
    name="cifar10",
    layout=BinaryLayout(
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        train_records=10_000,
        test_records=10_000,
        label_classes=(10,),
    ),
    label_byte=0,
    hub="uoft-cs/cifar10",
    label_column="label",
)
CIFAR100 = Source(
    name="cifar100",
    layout=BinaryLayout(
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        train_records=50_000,
        test_records=10_000,
        label_classes=(20, 100),
    ),
    label_byte=1,
    hub="uoft-cs/cifar100",
    label_column="fine_label",
)
CIFAR100_COARSE = CIFAR100._replace(label_byte=0, label_column="coarse_label")


def parse_records(
    contents: bytes, name: str, records: int, label_classes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Parses one file of the official binary version.

    Args:
      contents: the file.
      name: what to call it in errors.
      records: how many it must hold.
      label_classes: number of classes of each label byte: ``(10,)`` in CIFAR-10, and
        ``(20, 100)``, coarse then fine, in CIFAR-100.

    Returns:
      Labels uint8 ``[records, label bytes]`` and images uint8 ``[records, 32, 32, 3]``
      (a view of the contents).

    Raises:
      InputError: if length or labels are wrong.

    Example:
      >>> labels, images = parse_records(bytes([7]) + bytes(3072), "one.bin", 1, (10,))
      >>> labels.tolist(), images.shape
      ([[7]], (1, 32, 32, 3))
    """
    width = len(label_classes) + _PIXELS
    if len(contents) != records * width:
        state = "truncated" if len(contents) < records * width else "too long"
        raise InputError(
            f"{name} is {state}: {len(contents):,} bytes, expected {records:,} records "
            f"of {width:,} bytes; fetch the file again"
        )
    table = np.frombuffer(contents, np.uint8).reshape(records, width)
    labels, pixels = table[:, : len(label_classes)], table[:, len(label_classes) :]
    wrong = np.argwhere(labels >= np.array(label_classes))
    if len(wrong):
        record, byte = wrong[0]
        raise InputError(
            f"{name}, record {record}: label {labels[record, byte]}, expected 0 to "
            f"{label_classes[byte] - 1}; is this the right file?"
        )
    return labels, pixels.reshape(records, 3, 32, 32).transpose(0, 2, 3, 1)


def _binary_half(
    folder: Path, names: tuple[str, ...], records: int, source: Source
) -> tuple[np.ndarray, np.ndarray]:
    labels, images = [], []
    for name in names:
        path = folder / name
        if not path.is_file():
            raise InputError(f"{folder} has no file {name}")
        some_labels, some_images = parse_records(
            read_bytes(path), str(path), records, source.layout.label_classes
        )
        labels.append(some_labels[:, source.label_byte].astype(np.int32))
        images.append(some_images)
    return np.concatenate(images), np.concatenate(labels)


def _from_binary(
    folder: Path, source: Source, train_subset: int | None, seed: int
) -> dict[str, Any]:
    layout = source.layout
    x, y = _binary_half(folder, layout.train, layout.train_records, source)
    x_test, y_test = _binary_half(folder, layout.test, layout.test_records, source)
    rows = subset_rows(y, train_subset, seed)
    return {"x_train": x[rows], "y_train": y[rows], "x_test": x_test, "y_test": y_test}


def _from_tables(
    data_dir: Path | None, source: Source, train_subset: int | None, seed: int
) -> dict[str, Any]:
    splits = open_splits(source.name, source.hub, data_dir)
    what = source.hub if data_dir is None else str(data_dir)
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        where = f"the {split} split of {what}"
        table = require_split(what, splits, split)
        labels = label_column(where, table, source.label_column)
        rows = subset_rows(labels, train_subset if split == "train" else None, seed)
        images = image_column(where, table, "img", rows)
        if images.shape[1:] != SHAPE:
            raise InputError(
                f"{where}: images have shape {images.shape[1:]}, {source.name} has "
                f"{SHAPE}"
            )
        arrays |= {f"x_{split}": images, f"y_{split}": labels[rows]}
    return arrays


def _binary_folder(data_dir: Path, layout: BinaryLayout) -> Path | None:
    """Finds the binary files: in the directory or in the archive's folder in it."""
    for folder in (data_dir, data_dir / layout.folder):
        if any((folder / name).is_file() for name in (*layout.train, *layout.test)):
            return folder
    return None


def load_source(
    source: Source,
    data_dir: Path | None = None,
    train_subset: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads one of the data sets; see `load_cifar10` for the arguments."""
    if data_dir is not None and not data_dir.is_dir():
        raise InputError(f"no directory {data_dir}")
    folder = None if data_dir is None else _binary_folder(data_dir, source.layout)
    if folder is not None:
        arrays = _from_binary(folder, source, train_subset, seed)
    elif data_dir is None or any(data_dir.rglob("*.parquet")):
        arrays = _from_tables(data_dir, source, train_subset, seed)
    else:
        raise InputError(
            f"{data_dir} holds neither the hub's parquet files nor the official binary "
            f"files ({source.layout.train[0]}, ...) of {source.name}"
        )
    return from_arrays(
        source.name,
        **arrays,
        normalization=channel_normalization(arrays["x_train"]),
        num_classes=source.num_classes,
        augment=crop_and_flip,
    )


def load_cifar10(
    data_dir: Path | None = None, *, train_subset: int | None = None, seed: int = 0
) -> Dataset:
    """Loads 50,000 training and 10,000 test images of 32x32 RGB pixels in 10 classes.

    Both halves are standardised by the training images' channel statistics (of the
    subset, if one is taken).

    Args:
      data_dir: directory with the hub's parquet files (columns ``img`` and ``label``)
        or with the official binary version (``cifar-10-batches-bin`` or its files);
        without it the Hugging Face hub is asked for ``uoft-cs/cifar10``.
      train_subset: take (and decode) only so many training images, class-balanced.
      seed: which ones.

    Raises:
      InputError: if files are missing, truncated, or not the right ones.

    References:
      Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    return load_source(CIFAR10, data_dir, train_subset, seed)


def load_cifar100(
    data_dir: Path | None = None,
    *,
    coarse: bool = False,
    train_subset: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads 50,000 training and 10,000 test images of 32x32 RGB pixels in 100 classes.

    Args:
      data_dir: as for `load_cifar10`, with columns ``img``, ``fine_label`` and
        ``coarse_label``, or the folder ``cifar-100-binary`` or its files; the hub's
        name is ``uoft-cs/cifar100``.
      coarse: the 20 superclasses instead of the 100 classes.
      train_subset: take (and decode) only so many training images, class-balanced.
      seed: which ones.

    Raises:
      InputError: if files are missing, truncated, or not the right ones.
    """
    source = CIFAR100_COARSE if coarse else CIFAR100
    return load_source(source, data_dir, train_subset, seed)

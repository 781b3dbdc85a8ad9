"""Small valid files of every source, ways to damage them, and what must come of it."""

import csv
import gzip
import json
import math
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import datasets
import nibabel
import numpy as np
from PIL import Image

from fedsparsify_jax import data
from fedsparsify_jax.data.formats import idx
from fedsparsify_jax.data.sources import cifar
from fedsparsify_jax.errors import InputError

CLASSES = 3


def _numbers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _labels(n: int) -> np.ndarray:
    return np.arange(n) % CLASSES


def idx_bytes(array: np.ndarray) -> bytes:
    shape = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()


_IDX = {"x_train": (6, 4, 4), "y_train": (6,), "x_test": (3, 4, 4), "y_test": (3,)}


def write_idx(directory: Path) -> None:
    for seed, (name, shape) in enumerate(_IDX.items()):
        array = _numbers(seed, shape) if name[0] == "x" else _labels(shape[0])
        contents = idx_bytes(array)
        if name.endswith("test"):
            (directory / f"{name}.gz").write_bytes(gzip.compress(contents, mtime=0))
        else:
            (directory / name).write_bytes(contents)


def load_idx(directory: Path) -> data.Dataset:
    """What FashionMNIST goes through below the checksums."""
    arrays = {}
    for name in _IDX:
        path = directory / (f"{name}.gz" if name.endswith("test") else name)
        arrays[name] = idx.parse_idx(idx.read_bytes(path), str(path))
    try:
        return data.from_arrays("idx", **arrays, num_classes=CLASSES)
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.normal(size=(6, 2, 3)),
        "y_train": _labels(6),
        "x_test": rng.normal(size=(3, 2, 3)),
        "y_test": _labels(3),
    }


def write_npz(directory: Path) -> None:
    np.savez(directory / "mine.npz", **_arrays())


def write_packed_npz(directory: Path) -> None:
    np.savez_compressed(directory / "mine.npz", **_arrays())


def write_images(directory: Path) -> None:
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=CLASSES)}
    )
    for seed, (split, n) in enumerate({"train": 6, "test": 3}.items()):
        pictures = [Image.fromarray(one) for one in _numbers(seed, (n, 6, 6, 3))]
        columns = {"img": pictures, "label": _labels(n).tolist()}
        table = datasets.Dataset.from_dict(columns, features)
        table.to_parquet(directory / f"{split}.parquet")


def write_texts(directory: Path) -> None:
    texts = ["a good film", "no good", "it's bad", "fine, all in all", "bad bad", "ok"]
    rows = list(zip(texts, [1, 0, 0, 1, 0, 1], strict=True))
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (directory / "train.jsonl").write_text("\n".join(lines))
    with (directory / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows[:3]])


_SMALL_CIFAR = cifar.CIFAR10._replace(
    layout=cifar.CIFAR10.layout._replace(
        train=("data_batch_1.bin",), train_records=4, test_records=2
    )
)


def write_records(directory: Path) -> None:
    for name, n in (("data_batch_1.bin", 4), ("test_batch.bin", 2)):
        records = _numbers(n, (n, 3073))
        records[:, 0] %= 10
        (directory / name).write_bytes(records.tobytes())


def load_records(directory: Path) -> data.Dataset:
    return cifar.load_source(_SMALL_CIFAR, directory)


def write_scans(directory: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.nii", "b.nii.gz", "c.nii", "d.nii.gz"):
        voxels = rng.normal(50, 9, (4, 5, 3)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), directory / name)
    (directory / "train.csv").write_text("path,age\na.nii,61\nb.nii.gz,70.25\n")
    (directory / "test.csv").write_text("path,age\nc.nii,48\nd.nii.gz,55\n")


def write_store(directory: Path) -> None:
    toy = data.from_arrays("toy", **_arrays())
    parts = [np.array([4]), np.array([0, 1]), np.array([2, 3, 5])]
    # A store is written to a directory of its own, and read where it is put.
    data.write_population(directory / "store", toy, parts)


def load_store(directory: Path) -> data.Dataset:
    population = data.open_population(directory / "store")
    for client in range(population.num_clients):
        population.gather([client])
    return population.dataset


class Source(NamedTuple):
    """A source of data: how its files are written, and read."""

    write: Callable[[Path], None]
    load: Callable[[Path], data.Dataset]
    exact: bool = False  # checksums: what is accepted is what was written


def _loader(name: str) -> Callable[[Path], data.Dataset]:
    return lambda directory: data.load(name, directory)


SOURCES = {
    "idx": Source(write_idx, load_idx),
    "npz": Source(write_npz, _loader("npz"), exact=True),
    "npz, compressed": Source(write_packed_npz, _loader("npz"), exact=True),
    "images in parquet": Source(write_images, _loader("hf:local/images")),
    "texts": Source(write_texts, _loader("imdb")),
    "CIFAR, binary": Source(write_records, load_records),
    "NIfTI": Source(write_scans, _loader("brain_age")),
    "store": Source(write_store, load_store, exact=True),
}

Files = dict[str, bytes]


def written(source: Source, directory: Path) -> Files:
    """The files that a source's writer writes, by their paths in the directory."""
    source.write(directory)
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


_FOREIGN = (
    b"",
    b"text\n",
    pickle.dumps([1, 2]),
    b"PK\5\6" + bytes(18),  # an empty zip archive
    gzip.compress(b"text", mtime=0),
    b"PAR1" * 4,
    b"\x93NUMPY\1\0\xff\xff" + bytes(70),
    b"{" * 3000,
    bytes(348) + b"n+1\0",
)


def damage(rng: random.Random, contents: bytes) -> bytes:
    """One to three accidents; they prefer the ends, where headers and footers are."""
    changed = bytearray(contents)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = _place(rng, len(changed))
        match rng.randrange(8):
            case 0 | 1:
                if changed:
                    changed[place] ^= 1 << rng.randrange(8)
            case 2:
                del changed[place:]
            case 3:
                changed[place:place] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                del changed[place : place + rng.randrange(1, 65)]
            case 5:
                length = rng.choice((1, 2, 4, 8))
                changed[place : place + length] = rng.choice((b"\xff", b"\0")) * length
            case 6:
                other = _place(rng, len(changed))
                changed[place : place + 8] = changed[other : other + 8]
            case 7:
                changed[:] = rng.choice(_FOREIGN)
    return bytes(changed)


def _place(rng: random.Random, length: int) -> int:
    if not length:
        return 0
    where = rng.randrange(length)
    match rng.randrange(3):
        case 0:
            return min(where, rng.randrange(512))
        case 1:
            return length - 1 - min(where, rng.randrange(512))
    return where


def put(files: Files, directory: Path) -> None:
    """Writes files into a directory."""
    for name, contents in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)


def outcome(source: Source, directory: Path, original: data.Dataset) -> str:
    """``refused`` with one line that says where, or ``accepted`` as data that can be.

    Raises:
      AssertionError: for a refusal that says less, or data that cannot be.
      Exception: whatever a loader lets through.
    """
    try:
        dataset = source.load(directory)
    except InputError as error:
        message = str(error)
        assert message.isprintable() and str(directory) in message, message
        return "refused"
    check_valid(dataset)
    if source.exact:
        for one, other in zip(
            dataset.train + dataset.test, original.train + original.test, strict=True
        ):
            assert np.array_equal(one, other)
    return "accepted"


def check_valid(dataset: data.Dataset) -> None:
    """Asserts all that training relies on."""
    assert dataset.train.x.shape[1:] == dataset.test.x.shape[1:]
    assert math.prod(dataset.train.x.shape) > 0
    assert np.isfinite([dataset.normalization.mean, dataset.normalization.std]).all()
    assert np.all(np.asarray(dataset.normalization.std) > 0)
    for examples in (dataset.train, dataset.test):
        assert len(examples.x) == len(examples.y) > 0
        assert examples.x.dtype.isnative and examples.x.dtype.itemsize <= 4
        assert np.isfinite(examples.x).all()
        if dataset.task == "classification":
            assert examples.y.dtype == np.int32
            assert 0 <= examples.y.min() <= examples.y.max() < dataset.num_classes
        else:
            assert examples.y.dtype == np.float32 and np.isfinite(examples.y).all()

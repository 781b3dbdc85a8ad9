"""FashionMNIST from the official IDX files or from the Hugging Face hub."""

from pathlib import Path
from typing import Any

import numpy as np

from fedsparsify_jax.data.dataset import Dataset, Normalization, from_arrays
from fedsparsify_jax.data.formats.idx import check_sha256, parse_idx, read_bytes
from fedsparsify_jax.data.formats.tables import first_line
from fedsparsify_jax.errors import InputError

DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts the files."""

HUB_NAME = "zalando-datasets/fashion_mnist"

# SHA-256 of the decompressed files, so that plain and recompressed copies pass too.
SHA256 = {
    "train-images-idx3-ubyte": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "t10k-images-idx3-ubyte": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "t10k-labels-idx1-ubyte": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}


def _find(directory: Path, name: str) -> Path:
    for path in (directory / f"{name}.gz", directory / name):
        if path.is_file():
            return path
    raise InputError(f"{directory} has no file {name}.gz or {name}")


def _read(directory: Path, name: str) -> np.ndarray:
    path = _find(directory, name)
    contents = read_bytes(path)
    # Structure first: "truncated" says more than "the checksum differs".
    array = parse_idx(contents, str(path))
    check_sha256(contents, SHA256[name], str(path))
    return array


def _from_directory(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise InputError(
            f"no directory {directory}: FashionMNIST needs one with the official files"
        )
    return {
        "x_train": _read(directory, "train-images-idx3-ubyte"),
        "y_train": _read(directory, "train-labels-idx1-ubyte"),
        "x_test": _read(directory, "t10k-images-idx3-ubyte"),
        "y_test": _read(directory, "t10k-labels-idx1-ubyte"),
    }


def arrays_from_hub(splits: Any) -> dict[str, Any]:
    """Returns the arrays of a hub data set with columns ``image`` and ``label``."""
    arrays = {}
    for split in ("train", "test"):
        table = splits[split].with_format("numpy")
        arrays[f"x_{split}"] = np.asarray(table["image"][:], np.uint8)
        arrays[f"y_{split}"] = np.asarray(table["label"][:])
    return arrays


def _from_hub() -> dict[str, Any]:
    advice = (
        "install Debian's package dataset-fashion-mnist, or put the four official IDX "
        "files into a directory and name it with --data-dir"
    )
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"FashionMNIST was not found in {DEBIAN_DIR}: {advice}, or install "
            "fedsparsify_jax[hub] to load it from the Hugging Face hub"
        ) from error
    try:
        return arrays_from_hub(datasets.load_dataset(HUB_NAME))
    except Exception as error:  # the hub's client raises many kinds
        raise InputError(
            f"FashionMNIST is neither in {DEBIAN_DIR} nor to be had from the Hugging "
            f"Face hub ({first_line(error)}): {advice}"
        ) from error


def load_fashion_mnist(data_dir: Path | None = None) -> Dataset:
    """Loads 60,000 training and 10,000 test images of 28x28 pixels in 10 classes.

    Pixels are divided by 256, as in the FedSparsify experiments.

    Args:
      data_dir: directory with the four official IDX files, plain or gzipped; without
        it the Debian location is looked at, then the Hugging Face hub.

    Raises:
      InputError: if files are missing, truncated, or not the official ones.

    References:
      Xiao, Rasul and Vollgraf, Fashion-MNIST (arXiv 1708.07747).
    """
    if data_dir is not None:
        arrays = _from_directory(data_dir)
    elif DEBIAN_DIR.is_dir():
        arrays = _from_directory(DEBIAN_DIR)
    else:
        arrays = _from_hub()
    return from_arrays(
        "fashion_mnist",
        **arrays,
        normalization=Normalization(0.0, 256.0),
        num_classes=10,
    )

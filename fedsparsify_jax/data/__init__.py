"""Data sources, partitioners and client-stacked data."""

from collections.abc import Callable
from pathlib import Path

from fedsparsify_jax.data.clients import class_table as class_table
from fedsparsify_jax.data.clients import stack as stack
from fedsparsify_jax.data.dataset import Dataset as Dataset
from fedsparsify_jax.data.dataset import Normalization as Normalization
from fedsparsify_jax.data.dataset import from_arrays as from_arrays
from fedsparsify_jax.data.digits import load_digits as load_digits
from fedsparsify_jax.data.fashion_mnist import load_fashion_mnist as load_fashion_mnist
from fedsparsify_jax.data.npz import load_npz as load_npz
from fedsparsify_jax.data.partition import dirichlet as dirichlet
from fedsparsify_jax.data.partition import iid as iid
from fedsparsify_jax.data.partition import label_shards as label_shards
from fedsparsify_jax.data.partition import quantity_skew as quantity_skew
from fedsparsify_jax.errors import unknown

__all__ = [
    "NAMES",
    "Dataset",
    "Normalization",
    "class_table",
    "dirichlet",
    "from_arrays",
    "iid",
    "label_shards",
    "load",
    "load_digits",
    "load_fashion_mnist",
    "load_npz",
    "quantity_skew",
    "stack",
]

_LOADERS: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": load_digits,
    "fashion_mnist": load_fashion_mnist,
    "npz": load_npz,
}

NAMES = tuple(_LOADERS)
"""What `load` knows."""


def load(name: str, data_dir: Path | str | None = None) -> Dataset:
    """Loads a data set by name.

    Args:
      name: one of `NAMES`.
      data_dir: where its files are; what is looked at without it depends on the set.

    Raises:
      InputError: one line that says what is wrong and what to do.

    Example:
      >>> digits = load("digits")
      >>> digits.train.x.shape, digits.test.x.shape, digits.num_classes
      ((1437, 8, 8), (360, 8, 8), 10)
    """
    if name not in _LOADERS:
        raise unknown("data set", name, _LOADERS)
    return _LOADERS[name](None if data_dir is None else Path(data_dir))

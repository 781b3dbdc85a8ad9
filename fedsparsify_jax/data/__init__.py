"""Data sources, partitioners and client-stacked data."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fedsparsify_jax.data.augment import crop_and_flip as crop_and_flip
from fedsparsify_jax.data.augment import random_crop as random_crop
from fedsparsify_jax.data.augment import random_flip as random_flip
from fedsparsify_jax.data.clients import class_table as class_table
from fedsparsify_jax.data.clients import stack as stack
from fedsparsify_jax.data.dataset import Dataset as Dataset
from fedsparsify_jax.data.dataset import from_arrays as from_arrays
from fedsparsify_jax.data.normalization import Normalization as Normalization
from fedsparsify_jax.data.normalization import (
    channel_normalization as channel_normalization,
)
from fedsparsify_jax.data.partition_paper import BRAIN_AGE_SIZES as BRAIN_AGE_SIZES
from fedsparsify_jax.data.partition_paper import by_group as by_group
from fedsparsify_jax.data.partition_paper import by_sizes as by_sizes
from fedsparsify_jax.data.partition_paper import (
    proportional_sizes as proportional_sizes,
)
from fedsparsify_jax.data.partition_paper import value_skew as value_skew
from fedsparsify_jax.data.partitions import dirichlet as dirichlet
from fedsparsify_jax.data.partitions import iid as iid
from fedsparsify_jax.data.partitions import label_shards as label_shards
from fedsparsify_jax.data.partitions import quantity_skew as quantity_skew
from fedsparsify_jax.data.sources.brain_age import load_brain_age as load_brain_age
from fedsparsify_jax.data.sources.cifar import load_cifar10 as load_cifar10
from fedsparsify_jax.data.sources.cifar import load_cifar100 as load_cifar100
from fedsparsify_jax.data.sources.digits import load_digits as load_digits
from fedsparsify_jax.data.sources.fashion_mnist import (
    load_fashion_mnist as load_fashion_mnist,
)
from fedsparsify_jax.data.sources.hub import PREFIX
from fedsparsify_jax.data.sources.hub import load_hub as load_hub
from fedsparsify_jax.data.sources.hub import parse_hub_name as parse_hub_name
from fedsparsify_jax.data.sources.imdb import load_imdb as load_imdb
from fedsparsify_jax.data.sources.npz import load_npz as load_npz
from fedsparsify_jax.data.store.reading import Population as Population
from fedsparsify_jax.data.store.reading import load_store as load_store
from fedsparsify_jax.data.store.reading import open_population as open_population
from fedsparsify_jax.data.store.writing import PopulationWriter as PopulationWriter
from fedsparsify_jax.data.store.writing import write_population as write_population
from fedsparsify_jax.data.subset import balanced_subset as balanced_subset
from fedsparsify_jax.data.validation import hold_out as hold_out
from fedsparsify_jax.errors import InputError, unknown

__all__ = [
    "BRAIN_AGE_SIZES",
    "NAMES",
    "Dataset",
    "Normalization",
    "Population",
    "PopulationWriter",
    "balanced_subset",
    "by_group",
    "by_sizes",
    "channel_normalization",
    "class_table",
    "crop_and_flip",
    "dirichlet",
    "from_arrays",
    "hold_out",
    "iid",
    "label_shards",
    "load",
    "load_brain_age",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_fashion_mnist",
    "load_hub",
    "load_imdb",
    "load_npz",
    "load_store",
    "loader_options",
    "open_population",
    "parse_hub_name",
    "proportional_sizes",
    "quantity_skew",
    "random_crop",
    "random_flip",
    "stack",
    "value_skew",
    "write_population",
]

_LOADERS: dict[str, Callable[..., Dataset]] = {
    "brain_age": load_brain_age,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "digits": load_digits,
    "fashion_mnist": load_fashion_mnist,
    "imdb": load_imdb,
    "npz": load_npz,
    "store": load_store,
}

NAMES = tuple(_LOADERS)
"""The plain names `load` knows; beside them it takes ``hf:owner/name``."""


def _loader(name: str) -> Callable[..., Dataset]:
    if name.startswith(PREFIX):
        parse_hub_name(name)
        return partial(load_hub, name)
    if name not in _LOADERS:
        raise unknown("data set", name, [*_LOADERS, "hf:owner/name"])
    return _LOADERS[name]


def loader_options(name: str) -> list[str]:
    """The keywords that `load` takes for a data set.

    >>> loader_options("cifar10")
    ['train_subset', 'seed']
    """
    keywords = inspect.signature(_loader(name)).parameters.values()
    return [item.name for item in keywords if item.kind is item.KEYWORD_ONLY]


def load(name: str, data_dir: Path | str | None = None, **options: Any) -> Dataset:
    """Loads a data set by name.

    Args:
      name: one of `NAMES`, or ``hf:owner/name`` for an image data set of the Hugging
        Face hub (see `load_hub`).
      data_dir: where its files are; what is looked at without it depends on the set.
      **options: keywords of the loader, such as ``train_subset`` of `load_cifar10`.

    Raises:
      InputError: one line that says what is wrong and what to do.

    Example:
      >>> digits = load("digits")
      >>> digits.train.x.shape, digits.test.x.shape, digits.num_classes
      ((1437, 8, 8), (360, 8, 8), 10)
    """
    loader, accepted = _loader(name), loader_options(name)
    for option in options:
        if option not in accepted:
            raise InputError(
                f"the data set {name!r} has no option {option!r}: it has "
                f"{', '.join(accepted) or 'none'}"
            )
    try:
        return loader(None if data_dir is None else Path(data_dir), **options)
    except OSError as error:  # what no loader expects of its files
        raise InputError(
            f"cannot read the data set {name!r} from {data_dir}: {error}"
        ) from error

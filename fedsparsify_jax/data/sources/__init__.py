"""Data sources by name; a new one is a file here and a row in the table of loaders."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fedsparsify_jax.data.dataset import Dataset
from fedsparsify_jax.data.sources.brain_age import load_brain_age
from fedsparsify_jax.data.sources.cifar import load_cifar10, load_cifar100
from fedsparsify_jax.data.sources.digits import load_digits
from fedsparsify_jax.data.sources.fashion_mnist import load_fashion_mnist
from fedsparsify_jax.data.sources.hub import PREFIX, load_hub, parse_hub_name
from fedsparsify_jax.data.sources.imdb import load_imdb
from fedsparsify_jax.data.sources.npz import load_npz
from fedsparsify_jax.data.sources.table import load_table
from fedsparsify_jax.data.store.reading import load_store
from fedsparsify_jax.errors import InputError, unknown

_LOADERS: dict[str, Callable[..., Dataset]] = {
    "brain_age": load_brain_age,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "digits": load_digits,
    "fashion_mnist": load_fashion_mnist,
    "imdb": load_imdb,
    "npz": load_npz,
    "store": load_store,
    "table": load_table,
}

NAMES = tuple(_LOADERS)
"""The plain names that `load` takes; beside them it takes ``hf:owner/name``."""


def _loader(name: str) -> Callable[..., Dataset]:
    if name.startswith(PREFIX):
        parse_hub_name(name)
        return partial(load_hub, name)
    if name not in _LOADERS:
        raise unknown("data set", name, [*_LOADERS, "hf:owner/name"])
    return _LOADERS[name]


def loader_options(name: str) -> list[str]:
    """Lists the keywords that `load` takes for a data set.

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
      data_dir: of its files; without it, the loader of the data set decides.
      **options: keywords of the loader, such as ``train_subset`` of `load_cifar10`.

    Raises:
      InputError: in one line, what is wrong and what to do.

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

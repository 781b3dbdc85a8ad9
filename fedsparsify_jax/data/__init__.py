"""Data sources, partitioners and client-stacked data."""

from fedsparsify_jax.data.augment import (
    crop_and_flip,
    random_crop,
    random_flip,
    random_view,
)
from fedsparsify_jax.data.client_tests import client_tests, own_tests
from fedsparsify_jax.data.clients import class_table, stack
from fedsparsify_jax.data.dataset import Dataset, from_arrays, with_rows
from fedsparsify_jax.data.normalization import Normalization, channel_normalization
from fedsparsify_jax.data.owners import Natural, Owners, natural, owners_of
from fedsparsify_jax.data.partitions import (
    BRAIN_AGE_SIZES,
    by_group,
    by_sizes,
    dirichlet,
    iid,
    label_shards,
    proportional_sizes,
    quantity_skew,
    value_skew,
)
from fedsparsify_jax.data.sources import NAMES, load, loader_options
from fedsparsify_jax.data.sources.brain_age import load_brain_age
from fedsparsify_jax.data.sources.cifar import load_cifar10, load_cifar100
from fedsparsify_jax.data.sources.digits import load_digits
from fedsparsify_jax.data.sources.fashion_mnist import load_fashion_mnist
from fedsparsify_jax.data.sources.hub import load_hub, parse_hub_name
from fedsparsify_jax.data.sources.imdb import load_imdb
from fedsparsify_jax.data.sources.npz import load_npz
from fedsparsify_jax.data.sources.table import load_table
from fedsparsify_jax.data.store.reading import Population, load_store, open_population
from fedsparsify_jax.data.store.writing import PopulationWriter, write_population
from fedsparsify_jax.data.subset import balanced_rows, balanced_subset
from fedsparsify_jax.data.validation import hold_out

__all__ = [
    "BRAIN_AGE_SIZES",
    "NAMES",
    "Dataset",
    "Natural",
    "Normalization",
    "Owners",
    "Population",
    "PopulationWriter",
    "balanced_rows",
    "balanced_subset",
    "by_group",
    "by_sizes",
    "channel_normalization",
    "class_table",
    "client_tests",
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
    "load_table",
    "loader_options",
    "natural",
    "open_population",
    "own_tests",
    "owners_of",
    "parse_hub_name",
    "proportional_sizes",
    "quantity_skew",
    "random_crop",
    "random_flip",
    "random_view",
    "stack",
    "value_skew",
    "with_rows",
    "write_population",
]

"""Any image classification data set of the Hugging Face hub, by its name there."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedsparsify_jax.data.dataset import Dataset, from_arrays
from fedsparsify_jax.data.formats.columns import as_colour, image_column, label_column
from fedsparsify_jax.data.formats.tables import (
    Splits,
    local_files,
    open_files,
    open_hub,
    require_column,
    require_split,
)
from fedsparsify_jax.data.normalization import channel_normalization
from fedsparsify_jax.data.subset import subset_rows
from fedsparsify_jax.errors import InputError, shown, unknown

PREFIX = "hf:"
_NAME = re.compile(rf"{PREFIX}[\w.-]{{1,96}}/[\w.-]{{1,96}}")
_OPTIONS = ("image", "label", "config")
_SYNTAX = "hf:owner/name[,image=COLUMN][,label=COLUMN][,config=NAME]"


class HubName(NamedTuple):
    """A parsed ``hf:`` name."""

    name: str
    image: str | None = None
    label: str | None = None
    config: str | None = None


def parse_hub_name(text: str) -> HubName:
    """Parses ``hf:owner/name``, with options after commas.

    Raises:
      InputError: if it has another form.

    Example:
      >>> parse_hub_name("hf:uoft-cs/cifar100,label=coarse_label")
      HubName(name='uoft-cs/cifar100', image=None, label='coarse_label', config=None)
    """
    name, *options = text.split(",")
    if not _NAME.fullmatch(name):
        raise InputError(f"data set {shown(text)} is not of the form {_SYNTAX}")
    chosen: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if key not in _OPTIONS:
            raise unknown(f"option of {name}", key, _OPTIONS)
        if not (equals and value):
            raise InputError(f"option {key!r} of {name} has no value: {_SYNTAX}")
        chosen[key] = value
    return HubName(name.removeprefix(PREFIX), **chosen)


def find_column(where: str, table: Any, kind: str, option: str) -> str:
    """Finds the only column of a kind.

    Args:
      where: the table, for errors.
      table: a ``datasets.Dataset``.
      kind: of its feature, ``"Image"`` or ``"ClassLabel"``.
      option: how the user names the column instead, for errors.

    Raises:
      InputError: if there is none, or more than one.
    """
    names = [
        name
        for name, feature in table.features.items()
        if type(feature).__name__ == kind
    ]
    if len(names) == 1:
        return names[0]
    if names:
        raise InputError(
            f"{where} has several {kind} columns ({', '.join(names)}): choose one with "
            f"hf:owner/name,{option}=COLUMN"
        )
    raise InputError(
        f"{where} has no {kind} column: it has "
        + ", ".join(f"{name} ({kind_of(f)})" for name, f in table.features.items())
    )


def kind_of(feature: Any) -> str:
    """Returns ``int64`` for a plain column, else the name of its feature class."""
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def open_splits(
    what: str, name: str, data_dir: Path | None, config: str | None = None
) -> Splits:
    """Opens a data set from the parquet files of a directory, or from the hub."""
    if data_dir is None:
        advice = "put its parquet files into a directory and name it with --data-dir"
        return open_hub(what, name, advice, config)
    files = local_files(data_dir)
    if not files:
        raise InputError(
            f"{data_dir} holds no parquet files called train..., test... or "
            "validation..."
        )
    return open_files(what, files)


def load_hub(
    name: str,
    data_dir: Path | None = None,
    *,
    train_subset: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads an image data set of the hub with a train and a test or validation split.

    The image column and the ClassLabel column are found by their types. Coloured images
    are standardised by the training images' channel statistics, gray ones divided by
    255. If any image is coloured, gray ones are given three channels.

    Args:
      name: ``hf:owner/name``; after commas ``image=``, ``label=`` and ``config=``
        choose among several columns or configurations.
      data_dir: directory with the parquet files of the data set; nothing is downloaded
        then.
      train_subset: take (and decode) only so many training images, class-balanced.
      seed: which ones.

    Raises:
      InputError: if it cannot be had, or columns or splits are missing or ambiguous.
    """
    parsed = parse_hub_name(name)
    what = parsed.name if data_dir is None else str(data_dir)
    splits = open_splits(parsed.name, parsed.name, data_dir, parsed.config)
    train = require_split(what, splits, "train")
    test = require_split(what, splits, "test", "validation")
    where = f"the train split of {what}"
    # The columns, by name or by the only one of its type.
    image = parsed.image or find_column(where, train, "Image", "image")
    label = parsed.label or find_column(where, train, "ClassLabel", "label")
    require_column(where, train, label)
    labels = label_column(where, train, label)
    # Labels first, so that only the images of the subset are decoded.
    rows = subset_rows(labels, train_subset, seed)
    where_test = f"the {test.split} split of {what}"
    y_test = label_column(where_test, test, label)
    x_train = image_column(where, train, image, rows)
    x_test = image_column(where_test, test, image)
    if x_train.ndim != x_test.ndim:
        x_train, x_test = (
            x if x.ndim == 4 else as_colour(x) for x in (x_train, x_test)
        )
    names = getattr(train.features[label], "names", None)
    return from_arrays(
        parsed.name,
        x_train,
        labels[rows],
        x_test,
        y_test,
        normalization=channel_normalization(x_train) if x_train.ndim == 4 else None,
        num_classes=_num_classes(names, labels, y_test),
    )


def _num_classes(names: list[str] | None, train: np.ndarray, test: np.ndarray) -> int:
    """Returns as many as are declared, or as occur before a subset leaves some out."""
    return len(names) if names else int(max(train.max(), test.max())) + 1

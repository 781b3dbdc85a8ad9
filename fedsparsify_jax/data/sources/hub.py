"""Any classification data set of the Hugging Face hub, by its name there."""

import re
from pathlib import Path
from typing import NamedTuple

from fedsparsify_jax.data.dataset import Dataset
from fedsparsify_jax.data.formats.tables import (
    Splits,
    local_files,
    open_files,
    open_hub,
)
from fedsparsify_jax.data.owners import names_of
from fedsparsify_jax.data.sources.sequences import Unit
from fedsparsify_jax.data.sources.table import Wanted, from_tables
from fedsparsify_jax.data.splits import SplitBy
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
    input_columns: str | None = None,
    label_column: str | None = None,
    client_column: str | None = None,
    split_by: SplitBy | None = None,
    test_fraction: float = 0.2,
    train_subset: int | None = None,
    seed: int = 0,
    next_token: Unit | None = None,
    window: int | None = None,
    vocabulary: int | None = None,
) -> Dataset:
    """Loads a data set of the hub: images, numbers or texts, with a label a row.

    The image column and the ClassLabel column are found by their types. Coloured images
    are standardised by the training images' channel statistics, gray ones divided by
    255. If any image is coloured, gray ones are given three channels. For numbers and
    texts see `table.from_tables`.

    Args:
      name: ``hf:owner/name``; after commas ``image=``, ``label=`` and ``config=``
        choose among several columns or configurations.
      data_dir: directory with the parquet files of the data set; nothing is downloaded
        then.
      input_columns: see `table.load_table`, as are the arguments up to the fraction.
      label_column: in place of ``label=``.
      client_column: such as ``writer_id``.
      split_by: for data sets with one split.
      test_fraction: of that for testing.
      train_subset: take (and decode) only so many training examples, class-balanced.
      seed: which ones.
      next_token: see `table.load_table`, as are the two that follow.
      window: tokens.
      vocabulary: tokens.

    Raises:
      InputError: if it cannot be had, or columns or splits are missing or ambiguous.
    """
    parsed = parse_hub_name(name)
    what = parsed.name if data_dir is None else str(data_dir)
    wanted = Wanted(
        inputs=names_of(input_columns or parsed.image),
        label=label_column or parsed.label,
        clients=names_of(client_column),
        split_by=split_by,
        test_fraction=test_fraction,
        train_subset=train_subset,
        seed=seed,
        next_token=next_token,
        window=window,
        vocabulary=vocabulary,
    )
    splits = open_splits(parsed.name, parsed.name, data_dir, parsed.config)
    return from_tables(parsed.name, what, splits, wanted)

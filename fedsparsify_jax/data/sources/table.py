"""Tables as data sets: inputs, labels and perhaps clients in columns.

A table is one of the hub, or your own parquet, CSV or JSON lines.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedsparsify_jax.data.dataset import Dataset, from_arrays
from fedsparsify_jax.data.formats.columns import (
    target_column,
    text_column,
    values_column,
)
from fedsparsify_jax.data.formats.tables import (
    Splits,
    local_files,
    open_files,
    require_column,
    require_split,
)
from fedsparsify_jax.data.labels import Labels, numbered
from fedsparsify_jax.data.normalization import Normalization
from fedsparsify_jax.data.owners import Owners, names_of, owners_of
from fedsparsify_jax.data.sources.inputs import (
    TEXTS,
    Piece,
    find_inputs,
    kind_of,
    read_inputs,
)
from fedsparsify_jax.data.sources.sequences import (
    VOCABULARY,
    WINDOWS,
    Unit,
    tokens_of,
    vocabulary_of,
    windows,
)
from fedsparsify_jax.data.splits import SplitBy, split_off
from fedsparsify_jax.data.subset import subset_rows
from fedsparsify_jax.errors import InputError, shown

SUFFIXES = (".parquet", ".csv", ".jsonl")
_LABELS = ("label", "labels", "target", "class", "y")
_NAMED = 5  # classes that a sentence names


class Wanted(NamedTuple):
    """The columns of a table that a data set is made of, and its parts.

    Attributes:
      inputs: names of columns; none to find them.
      label: name of the column; None to find it.
      clients: columns that name an example's client together; none for nobody's.
      split_by: how a source with one split is divided, see `splits.split_off`.
      test_fraction: share of that for testing.
      train_subset: so many training examples, class-balanced; None for all.
      seed: of the split and the subset.
      next_token: learn every next character or word of the texts, not a label.
      window: tokens that are seen before it; None for `sequences.WINDOWS`.
      vocabulary: tokens with numbers of their own; None for `sequences.VOCABULARY`.
    """

    inputs: tuple[str, ...] = ()
    label: str | None = None
    clients: tuple[str, ...] = ()
    split_by: SplitBy | None = None
    test_fraction: float = 0.2
    train_subset: int | None = None
    seed: int = 0
    next_token: Unit | None = None
    window: int | None = None
    vocabulary: int | None = None


def load_table(
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
    """Loads a table of your own: images, numbers or texts, with a label a row.

    Labels are classes if they are names or whole numbers, and numbers of a regression
    if they have fractions. See `from_tables`.

    Args:
      data_dir: a parquet, CSV or JSON lines file; or a directory of such files called
        train..., test... or validation....
      input_columns: names with commas between them; by default the one column of
        images, or all columns of numbers.
      label_column: by default the only ClassLabel column, or one called label.
      client_column: names with commas between them, for natural clients.
      split_by: how a table without a test split is divided: client or example.
      test_fraction: share for testing then.
      train_subset: take only so many training examples, class-balanced.
      seed: which ones, of the subset and of the split.
      next_token: learn every next character or word of a column of texts; a subset is
        not balanced then.
      window: tokens that are seen before it, by default 80 characters or 20 words.
      vocabulary: tokens with numbers of their own, by default the 10,000 most
        frequent of the training texts.

    Raises:
      InputError: in one line, what is missing or cannot be read.
    """
    if data_dir is None:
        raise InputError(
            "the data set 'table' needs --data-dir FILE.parquet, a .csv or .jsonl "
            "file, or a directory with train... and test... files"
        )
    if data_dir.is_dir():
        files = local_files(data_dir, SUFFIXES)
    else:
        files = {"train": [data_dir]}
        if data_dir.suffix not in SUFFIXES:
            raise InputError(f"{data_dir} does not end in {', '.join(SUFFIXES)}")
        if not data_dir.is_file():
            raise InputError(f"no file {data_dir}")
    if not files:
        raise InputError(
            f"{data_dir} holds no files called train..., test... or validation... that "
            f"end in {', '.join(SUFFIXES)}"
        )
    wanted = Wanted(
        inputs=names_of(input_columns),
        label=label_column,
        clients=names_of(client_column),
        split_by=split_by,
        test_fraction=test_fraction,
        train_subset=train_subset,
        seed=seed,
        next_token=next_token,
        window=window,
        vocabulary=vocabulary,
    )
    return from_tables(data_dir.stem, str(data_dir), open_files("table", files), wanted)


def from_tables(name: str, what: str, splits: Splits, wanted: Wanted) -> Dataset:
    """Makes a data set of one table, or of one for training and one for testing.

    Images are standardised by channel if they are coloured, else divided by 255;
    numbers are standardised by column, and lists of numbers treated as in an npz file;
    texts become numbers of characters.

    Args:
      name: of the data set.
      what: the same for errors, a directory for instance.
      splits: its tables.
      wanted: their columns.

    Raises:
      InputError: in one line, for columns that are missing, damaged or of no use.
    """
    tables = _tables(what, splits, wanted.split_by)
    if wanted.next_token is not None:
        return _of_texts(name, tables, wanted, wanted.next_token)
    label = wanted.label or find_label(*tables[0])
    columns = find_inputs(*tables[0], wanted.inputs, {label, *wanted.clients})
    # Labels and owners of all rows first, so that only chosen inputs are decoded.
    targets = [target_column(*table, label) for table in tables]
    declared = getattr(tables[0][1].features[label], "names", None)
    targets, labels, classes = _classes(tables[0][0], label, targets, declared)
    owners = _owners(tables, wanted.clients)
    pieces, notes = _pieces(tables, targets[0], owners, wanted)
    order = subset_rows(targets[0][pieces[0].rows], wanted.train_subset, wanted.seed)
    train = pieces[0]._replace(rows=pieces[0].rows[order])
    read = read_inputs(columns, [train, pieces[1]])
    if classes is not None:
        notes += (_described(label, classes, labels),)
    dataset = from_arrays(
        name,
        read.arrays[0],
        targets[0][train.rows],
        read.arrays[1],
        targets[-1][pieces[1].rows],
        normalization=read.normalization,
        num_classes=classes,
        task="regression" if classes is None else "classification",
    )
    return dataset._replace(
        owners=_divided(owners, train, pieces[1]),
        labels=labels,
        notes=read.notes + notes,
        characters=read.characters,
    )


_Table = tuple[str, Any]  # for errors, and the table


def _of_texts(name: str, tables: list[_Table], wanted: Wanted, unit: Unit) -> Dataset:
    """Makes a data set of every next token of a column of texts."""
    column = _texts_column(*tables[0], wanted)
    owners = _owners(tables, wanted.clients)
    # Whole texts are for training or testing, never parts of one for both.
    pieces, notes = _pieces(tables, np.zeros(len(tables[0][1])), owners, wanted)
    texts = [
        [tokens_of(read[row], unit) for row in piece.rows]
        for piece in pieces
        for read in [text_column(piece.where, piece.table, column)]
    ]
    vocabulary = vocabulary_of(texts[0], wanted.vocabulary or VOCABULARY)
    length = wanted.window or WINDOWS[unit]
    read = [windows(some, vocabulary, length) for some in texts]
    for piece, one in zip(pieces, read, strict=True):
        if not len(one.y):
            raise InputError(
                f"{piece.where}: no text in {shown(column)} has two {unit}s"
            )
    order = subset_rows(np.zeros_like(read[0].y), wanted.train_subset, wanted.seed)
    train, test = read[0], read[1]
    dataset = from_arrays(
        name,
        train.x[order],
        train.y[order],
        test.x,
        test.y,
        normalization=Normalization(),
        num_classes=1 + len(vocabulary),
    )
    of_train = pieces[0]._replace(rows=pieces[0].rows[train.texts[order]])
    of_test = pieces[1]._replace(rows=pieces[1].rows[test.texts])
    said = f"next {unit} of {column} after up to {length}, {len(vocabulary):,} known"
    return dataset._replace(
        owners=_divided(owners, of_train, of_test),
        labels=("", *vocabulary),
        notes=(said, *notes),
        characters="".join(vocabulary) if unit == "character" else None,
        words=vocabulary if unit == "word" else None,
    )


def _texts_column(where: str, table: Any, wanted: Wanted) -> str:
    """Returns the column of texts: the one that was asked for, or the only one."""
    if wanted.inputs:
        columns = find_inputs(where, table, wanted.inputs, ())
        names = list(columns.names) if columns.kind == "text" else []
    else:
        free = [name for name in table.features if name not in wanted.clients]
        names = [n for n in free if kind_of(table.features[n]) in TEXTS]
    if len(names) != 1:
        described = ", ".join(names) or "none"
        raise InputError(
            f"{where}: --next-token reads one column of texts: it has {described} "
            "(name it with --input-columns)"
        )
    return names[0]


def _tables(what: str, splits: Splits, split_by: SplitBy | None) -> list[_Table]:
    """Returns the training table, and the test table unless that is to be made."""
    test = next((name for name in ("test", "validation") if name in splits), None)
    first = next(iter(splits)) if len(splits) == 1 and test is None else "train"
    train = require_split(what, splits, first)
    tables = [(f"the {first} split of {what}", train)]
    if test is None and split_by is None:
        raise InputError(
            f"{what} has no test or validation split: it has {', '.join(splits)} (give "
            "--split-by example or client to test on a share of it)"
        )
    if test is not None and split_by is not None:
        raise InputError(
            f"--split-by is {split_by}: {what} has a {test} split already, leave it out"
        )
    if test is not None:
        test_table = require_split(what, splits, test)
        tables.append((f"the {test} split of {what}", test_table))
    return tables


def find_label(where: str, table: Any) -> str:
    """Finds the column of labels, by its type or its name.

    Raises:
      InputError: if none is, or several are.
    """
    features = table.features
    typed = [n for n, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    if len(typed) > 1:
        raise InputError(
            f"{where} has several ClassLabel columns ({', '.join(typed)}): choose one "
            "with --label-column (of the hub also hf:owner/name,label=COLUMN)"
        )
    found = typed or [name for name in _LABELS if name in features]
    if not found:
        raise InputError(
            f"{where} has no ClassLabel column and none called {_LABELS[0]}: it has "
            + ", ".join(f"{name} ({kind_of(kind)})" for name, kind in features.items())
            + "; name one with --label-column"
        )
    return found[0]


def _classes(
    where: str, label: str, targets: list[np.ndarray], declared: Any
) -> tuple[list[np.ndarray], Labels | None, int | None]:
    """Returns classes, what they are called, and how many; None for a regression."""
    kinds = {target.dtype.kind for target in targets}
    if declared:
        plain = [str(number) for number in range(len(declared))]
        labels = tuple(declared) if list(declared) != plain else None
        return targets, labels, len(declared)
    if kinds & set("f") and not kinds & set("U"):
        return [target.astype(np.float32) for target in targets], None, None
    if len(kinds) > 1:
        raise InputError(f"{where}: {label} holds names and numbers")
    numbers, labels = numbered(targets)
    classes = max(int(number.max(initial=0)) for number in numbers) + 1
    return numbers, labels, classes


def _owners(tables: list[_Table], columns: tuple[str, ...]) -> Owners | None:
    """Returns the owners of all rows, in train all those of the first table."""
    if not columns:
        return None
    every: dict[str, list[Any]] = {column: [] for column in columns}
    for where, table in tables:
        for column in columns:
            require_column(where, table, column)
            every[column] += values_column(where, table, column)
    names, owners = owners_of(tables[0][0], every)
    rows = len(tables[0][1])
    test = owners[rows:] if len(tables) > 1 else None
    return Owners(names, owners[:rows], test)


def _pieces(
    tables: list[_Table], targets: np.ndarray, owners: Owners | None, wanted: Wanted
) -> tuple[list[Piece], tuple[str, ...]]:
    """Returns the training and the test rows, and a sentence about a split."""
    if len(tables) > 1:
        return [Piece(*table, np.arange(len(table[1]))) for table in tables], ()
    assert wanted.split_by is not None
    chosen, said = split_off(
        targets, owners, wanted.split_by, wanted.test_fraction, wanted.seed
    )
    rows = [np.flatnonzero(~chosen), np.flatnonzero(chosen)]
    return [Piece(*tables[0], some) for some in rows], (said,)


def _divided(owners: Owners | None, train: Piece, test: Piece) -> Owners | None:
    """Returns the owners of the training and the test rows."""
    if owners is None:
        return None
    every = owners.train if owners.test is None else owners.test
    return Owners(owners.names, owners.train[train.rows], every[test.rows])


def _described(label: str, classes: int, labels: Labels | None) -> str:
    said = f"labels: {label}, {classes} classes"
    if labels is None:
        return said
    first = [shown(one) for one in labels[:_NAMED]]
    return f"{said}: {', '.join(first + ['...'] * (len(labels) > _NAMED))}"

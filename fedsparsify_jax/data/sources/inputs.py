"""Columns of tables as inputs of a network: pictures, numbers, or letters of texts."""

from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from fedsparsify_jax.data.formats.columns import (
    as_colour,
    decoded_images,
    number_column,
    text_column,
)
from fedsparsify_jax.data.formats.tables import require_column
from fedsparsify_jax.data.normalization import Normalization, channel_normalization
from fedsparsify_jax.data.sources.npz import pixel_scale
from fedsparsify_jax.errors import InputError, counted, shown

PADDING, OTHER, FIRST = 0, 1, 2
"""Numbers that stand for no letter and for one that training texts lack; the first of
those that they have."""

TEXTS = ("string", "large_string")
"""Types of columns of texts."""
_MOST = 20  # columns that a sentence names


class Piece(NamedTuple):
    """Some rows of one table."""

    where: str  # for errors
    table: Any  # a ``datasets.Dataset``
    rows: np.ndarray  # ascending


class Columns(NamedTuple):
    """The input columns of a table."""

    kind: Literal["images", "text", "numbers"]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # those that nothing is made of


class Read(NamedTuple):
    """Inputs of every piece, and how a network is to see them."""

    arrays: list[np.ndarray]
    normalization: Normalization | None
    notes: tuple[str, ...] = ()
    characters: str | None = None


def kind_of(feature: Any) -> str:
    """Returns ``int64`` for a plain column, else the name of its feature class."""
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _is_number(feature: Any) -> bool:
    while type(feature).__name__ in ("Sequence", "List", "LargeList"):
        feature = feature.feature
    kind = kind_of(feature)
    return type(feature).__name__ == "Value" and kind.startswith(
        ("int", "uint", "float", "bool")
    )


def _kind(feature: Any) -> str | None:
    """Returns what inputs a column can be; None for nothing."""
    if type(feature).__name__ == "Image":
        return "images"
    if kind_of(feature) in TEXTS:
        return "text"
    return "numbers" if _is_number(feature) else None


def find_inputs(
    where: str, table: Any, asked: Sequence[str], others: Collection[str]
) -> Columns:
    """Finds the columns that are inputs: those asked for, the images, or all numbers.

    Args:
      where: the table, for errors.
      table: a ``datasets.Dataset``.
      asked: names of columns; none to find them.
      others: names of columns that are something else.

    Raises:
      InputError: if there are none, or several that do not go together.
    """
    features = table.features
    for name in asked:
        require_column(where, table, name)
    kinds = {name: _kind(feature) for name, feature in features.items()}
    free = [name for name in features if name not in others]
    described = ", ".join(f"{name} ({kind_of(features[name])})" for name in features)
    if asked:
        found = {kinds[name] for name in asked}
        if len(found) > 1 or None in found or (len(asked) > 1 and found != {"numbers"}):
            raise InputError(
                f"{where}: --input-columns are one of images, one of text, or some of "
                f"numbers: it has {described}"
            )
        chosen, kind = list(asked), kinds[asked[0]]
    else:
        images = [name for name in free if kinds[name] == "images"]
        if len(images) > 1:
            raise InputError(
                f"{where} has several Image columns ({', '.join(images)}): choose one "
                "with --input-columns"
            )
        chosen = images or [name for name in free if kinds[name] == "numbers"]
        kind = "images" if images else "numbers"
    if not chosen:
        raise InputError(
            f"{where} has no column of images or numbers for inputs: it has {described}"
        )
    left_out = tuple(name for name in free if name not in chosen)
    return Columns(kind, tuple(chosen), left_out)  # type: ignore[arg-type]


def read_inputs(columns: Columns, pieces: Sequence[Piece]) -> Read:
    """Reads the inputs of pieces of tables, the first of which is for training.

    Args:
      columns: from `find_inputs`.
      pieces: of tables that all have them.

    Raises:
      InputError: naming the table and the row, for what cannot be read.
    """
    readers = {"images": _images, "text": _texts, "numbers": _numbers}
    return readers[columns.kind](columns, pieces)


def _images(columns: Columns, pieces: Sequence[Piece]) -> Read:
    (name,) = columns.names
    decoded = [decoded_images(p.where, p.table, name, p.rows) for p in pieces]
    arrays, gray = [one.pixels for one in decoded], sum(one.gray for one in decoded)
    if len({array.ndim for array in arrays}) > 1:
        gray += sum(len(array) for array in arrays if array.ndim == 3)
        arrays = [x if x.ndim == 4 else as_colour(x) for x in arrays]
    notes: tuple[str, ...] = ()
    if gray:
        notes = (
            f"images: {gray:,} gray ones among coloured were given three channels",
        )
    coloured = arrays[0].ndim == 4
    return Read(arrays, channel_normalization(arrays[0]) if coloured else None, notes)


def _shortened(names: Sequence[str]) -> str:
    return ", ".join([*names[:_MOST], *["..."] * (len(names) > _MOST)])


def _of_piece(columns: Columns, piece: Piece) -> np.ndarray:
    """Returns lists as they are, if they are alone; several columns side by side."""
    read = [
        number_column(piece.where, piece.table, name)[piece.rows]
        for name in columns.names
    ]
    if len(read) == 1 and read[0].ndim > 1:
        alone: np.ndarray = read[0]
        return alone
    flat = [column.reshape(len(piece.rows), -1).astype(np.float32) for column in read]
    return np.concatenate(flat, axis=1)


def _numbers(columns: Columns, pieces: Sequence[Piece]) -> Read:
    arrays = [_of_piece(columns, piece) for piece in pieces]
    said = f"inputs: {_shortened(columns.names)}"
    if arrays[0].ndim > 2 or (len(columns.names) == 1 and arrays[0].shape[1] > 1):
        scale = pixel_scale(arrays[0], arrays[-1])
        treated = "as they are" if scale == 1 else f"divided by {scale:g}"
        return Read(arrays, Normalization(0.0, scale), (f"{said}, {treated}",))
    wide = arrays[0].astype(np.float64)
    std = wide.std(axis=0)
    std[std == 0] = 1.0
    normalization = Normalization(tuple(wide.mean(axis=0)), tuple(std))
    said += ", standardised by the training examples"
    if columns.left_out:
        said += f"; not used: {_shortened(columns.left_out)}"
    return Read(arrays, normalization, (said,))


def _texts(columns: Columns, pieces: Sequence[Piece]) -> Read:
    (name,) = columns.names
    texts = [
        [column[row] for row in piece.rows]
        for piece in pieces
        for column in [text_column(piece.where, piece.table, name)]
    ]
    characters = "".join(sorted(set().union(*texts[0])))
    length = max(map(len, texts[0]), default=0)
    if not characters:
        raise InputError(f"{pieces[0].where}: the texts in {shown(name)} are empty")
    arrays = [encode(some, characters, length) for some in texts]
    note = (
        f"inputs: the last {counted(length, 'character')} of {name}, "
        f"{len(characters)} different ones"
    )
    return Read(arrays, None, (note,), characters)


def encode(texts: Sequence[str], characters: str, length: int) -> np.ndarray:
    """Converts texts to rows of numbers, one a character.

    Long texts lose their beginning, and short ones are padded there.

    Args:
      texts: n texts.
      characters: those with numbers of their own, from 2.
      length: of the rows.

    Returns:
      int32 ``[n, length]``.

    Example:
      >>> encode(["ab", "cbba"], "ab", 3).tolist()
      [[0, 2, 3], [3, 3, 2]]
    """
    numbers = {letter: number for number, letter in enumerate(characters, FIRST)}
    rows = np.full((len(texts), length), PADDING, np.int32)
    for row, text in zip(rows, texts, strict=True):
        kept = [numbers.get(letter, OTHER) for letter in text[-length:]]
        row[length - len(kept) :] = kept
    return rows

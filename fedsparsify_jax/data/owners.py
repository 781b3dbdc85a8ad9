"""Natural clients: those that a data set's examples come from, such as a hospital."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedsparsify_jax.errors import InputError, shown

Parts = list[np.ndarray]
_STREAM = 3  # its draws are not those of a subset with the same seed


class Owners(NamedTuple):
    """The client that every example of a data set comes from.

    Attributes:
      names: of G clients, in the order of their names or numbers.
      train: int32 ``[n]``, the place in ``names`` of every training example's client.
      test: int32 ``[m]``, those of the test examples; None if they are nobody's.
    """

    names: tuple[str, ...]
    train: np.ndarray
    test: np.ndarray | None = None


class Natural(NamedTuple):
    """A partition by owners, and who is left out of it.

    Attributes:
      parts: one index array a client, none of them empty.
      kept: int ``[N]``, the place of every client in the owners' names.
      gone: why clients are left out, to their places in the owners' names.
    """

    parts: Parts
    kept: np.ndarray
    gone: dict[str, np.ndarray]


def _column(where: str, name: str, values: ArrayLike) -> np.ndarray:
    """Returns a column as integers or as strings, without gaps."""
    column = np.asarray(values)
    if column.ndim != 1:
        raise InputError(
            f"{where}: {name} has shape {column.shape}: expected a client an example"
        )
    if column.dtype.kind == "O":
        for row, value in enumerate(column.tolist()):
            if value is None or value != value:
                raise InputError(f"{where}, row {row}: no {name}")
            if not isinstance(value, str | int):
                raise InputError(
                    f"{where}, row {row}: {name} is {shown(value)}, expected a name or "
                    "a whole number"
                )
        column = np.array([str(value) for value in column.tolist()])
    if column.dtype.kind == "f":
        gaps = np.flatnonzero(~np.isfinite(column))
        if gaps.size:
            raise InputError(f"{where}, row {gaps[0]}: no {name}")
        broken = np.flatnonzero(column % 1)
        if broken.size or (column.size and np.abs(column).max() >= 2**53):
            row = int(broken[0]) if broken.size else int(np.abs(column).argmax())
            raise InputError(
                f"{where}, row {row}: {name} is {column[row]}, expected a name or a "
                "whole number"
            )
        column = column.astype(np.int64)
    if column.dtype.kind not in "iubU":
        raise InputError(
            f"{where}: {name} is {column.dtype}, expected names or numbers"
        )
    return column


def names_of(columns: str | None) -> tuple[str, ...]:
    """Returns the names in a list with commas.

    >>> names_of("character, play"), names_of(None)
    (('character', 'play'), ())
    """
    if columns is None:
        return ()
    return tuple(name.strip() for name in columns.split(",") if name.strip())


def owners_of(
    where: str, columns: Mapping[str, ArrayLike]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Numbers the clients that columns name; several columns name one together.

    Args:
      where: whose columns they are, for errors.
      columns: names of columns to ``[n]`` names or whole numbers each.

    Returns:
      The clients' names, in the order of the columns' values, and int32 ``[n]``, the
      place among them of every row's client.

    Raises:
      InputError: naming the row, where a column says nothing or no name.

    Example:
      >>> owners_of("a table", {"play": ["b", "a", "b"], "part": [1, 1, 2]})
      (('a/1', 'b/1', 'b/2'), array([1, 0, 2], dtype=int32))
    """
    checked = [_column(where, name, values) for name, values in columns.items()]
    values, places = zip(
        *(np.unique(column, return_inverse=True) for column in checked), strict=True
    )
    rows, owners = np.unique(np.stack(places, -1), axis=0, return_inverse=True)
    names = tuple(
        "/".join(str(value[place]) for value, place in zip(values, row, strict=True))
        for row in rows
    )
    return names, owners.reshape(-1).astype(np.int32)


def natural(
    owners: Owners,
    *,
    min_client_examples: int = 1,
    max_clients: int | None = None,
    seed: int = 0,
) -> Natural:
    """Makes every owner of training examples a client.

    Owners without any, which a subset or a split leaves behind, are left out like
    those with too few. The rest keep their order.

    Args:
      owners: of the examples.
      min_client_examples: training examples that a client needs.
      max_clients: draw only so many of them.
      seed: which ones.

    Raises:
      InputError: if no client has enough examples.

    Example:
      >>> owners = Owners(("a", "b", "c"), np.array([0, 2, 2]))
      >>> made = natural(owners, min_client_examples=2)
      >>> [part.tolist() for part in made.parts], made.kept.tolist()
      ([[1, 2]], [2])
      >>> {why: who.tolist() for why, who in made.gone.items()}
      {'without training examples': [1], 'with fewer than 2 examples': [0]}
    """
    counts = np.bincount(owners.train, minlength=len(owners.names))
    gone = {"without training examples": np.flatnonzero(counts == 0)}
    small = f"with fewer than {min_client_examples} examples"
    gone[small] = np.flatnonzero((counts > 0) & (counts < min_client_examples))
    kept = np.flatnonzero(counts >= max(1, min_client_examples))
    if not kept.size:
        raise InputError(
            f"--min-client-examples is {min_client_examples}: the largest client has "
            f"{counts.max(initial=0)}"
        )
    if max_clients is not None and len(kept) > max_clients:
        rng = np.random.default_rng([seed, _STREAM])
        drawn = np.sort(rng.permutation(kept)[:max_clients])
        gone[f"beyond the {max_clients} drawn"] = np.setdiff1d(kept, drawn)
        kept = drawn
    order = np.argsort(owners.train, kind="stable")
    every = np.split(order, np.cumsum(counts)[:-1])
    return Natural(
        parts=[every[client] for client in kept],
        kept=kept,
        gone={why: who for why, who in gone.items() if who.size},
    )


def named(names: Sequence[str], places: Any, most: int = 10) -> str:
    """Returns some clients' names in words, the first ones of many.

    >>> named(("a", "b", "c"), [0, 2], most=1)
    'a, ...'
    """
    first = [names[place] for place in places[:most]]
    return ", ".join(first + ["..."] * (len(places) > most))

"""The order of encrypted numbers: surviving weights of a tree as one row, and back.

Arrays come as in `wire`: depth first, by their names at every level. Of each come the
entries that the masks keep, in row order. Only floats are encrypted. Whole numbers are
counters, of which there is no mean: they stay as the receiver has them.
"""

from collections.abc import Mapping

import numpy as np

from fedsparsify_jax.deploy.wire.names import fitting, flat, nested
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import Masks, Variables

Arrays = dict[str, np.ndarray]


def pack(variables: Variables, masks: Masks) -> np.ndarray:
    """Returns the surviving floats of a tree in one row: float64 ``[k]``.

    Args:
      variables: nested dicts of arrays, NumPy's or JAX's.
      masks: bools of the same shapes.

    Raises:
      InputError: if the two do not fit one another.

    Example:
      >>> tree = {"w": np.array([1.5, 2.5]), "b": np.array([0.5]), "steps": np.array(3)}
      >>> keep = {"w": np.array([False, True]), "b": np.array([True])}
      >>> pack(tree, keep | {"steps": np.array(True)}).tolist()
      [0.5, 2.5]
    """
    leaves, kept = _both(variables, masks)
    rows = [leaves[name][kept[name]] for name in _floats(leaves)]
    return np.concatenate([np.zeros(0), *(row.astype(np.float64) for row in rows)])


def unpack(numbers: np.ndarray, masks: Masks, like: Variables) -> Variables:
    """Returns the tree of a row of numbers, zero for what the masks drop.

    Args:
      numbers: ``[k]``, in the order of `pack`.
      masks: those it was packed by.
      like: a tree of the same shapes and dtypes; its whole numbers are taken over.

    Raises:
      InputError: if there are more or fewer numbers than the masks keep.
    """
    leaves, kept = _both(like, masks)
    names = _floats(leaves)
    lengths = [int(np.count_nonzero(kept[name])) for name in names]
    numbers = np.asarray(numbers)
    if numbers.shape != (sum(lengths),):
        raise InputError(
            f"the numbers have the shape {numbers.shape}, the masks keep "
            f"{sum(lengths):,}: give the masks they were packed by"
        )
    arrays = dict(leaves)
    ends = np.cumsum([0, *lengths])
    for name, start, end in zip(names, ends, ends[1:], strict=False):
        leaf = np.zeros_like(leaves[name])
        leaf[kept[name]] = numbers[start:end].astype(leaf.dtype)
        arrays[name] = leaf
    return nested(arrays, flat(like, "variables")[1])


def counters(variables: Variables) -> Arrays:
    """Returns the arrays of a tree, by path, that are not encrypted.

    >>> counters({"w": np.zeros(2), "steps": np.array(3)})
    {'steps': array(3)}
    """
    leaves, _ = flat(variables, "variables")
    floats = set(_floats(leaves))
    return {name: leaf for name, leaf in leaves.items() if name not in floats}


def _floats(leaves: Mapping[str, np.ndarray]) -> list[str]:
    return [
        name
        for name, leaf in leaves.items()
        if leaf.dtype.kind == "f" or leaf.dtype.name == "bfloat16"
    ]


def _both(variables: Variables, masks: Masks) -> tuple[Arrays, Arrays]:
    leaves, _ = flat(variables, "variables")
    return leaves, fitting(masks, leaves)

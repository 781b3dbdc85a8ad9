"""Labels of any kind as classes: words, or numbers with gaps."""

from collections.abc import Sequence

import numpy as np

Labels = tuple[str | int, ...]
"""What the classes 0 .. C - 1 are called in the source of the data."""


def numbered(targets: Sequence[np.ndarray]) -> tuple[list[np.ndarray], Labels | None]:
    """Maps labels to classes 0 .. C - 1, in the order of their values.

    Args:
      targets: strings or integers ``[n]``, of every split.

    Returns:
      The classes of every split, int32, and what they are called; integers that are 0
      to C - 1 already stay as they are, and their classes are called nothing else.

    Example:
      >>> numbered([np.array(["flu", "cold"]), np.array(["flu"])])[1]
      ('cold', 'flu')
      >>> classes, labels = numbered([np.array([7, -1, 7])])
      >>> classes[0].tolist(), labels
      ([1, 0, 1], (-1, 7))
      >>> numbered([np.array([1, 0])])[1] is None
      True
    """
    joined = np.concatenate(targets)
    values, classes = np.unique(joined, return_inverse=True)
    cuts = np.cumsum([len(one) for one in targets])[:-1]
    split = np.split(classes.reshape(-1).astype(np.int32), cuts)
    if values.dtype.kind != "U" and np.array_equal(values, np.arange(len(values))):
        return split, None
    return split, tuple(values.tolist())

"""Smaller training sets, chosen by seed: rows first, so that files can be read in part.

For one seed a smaller subset lies inside every larger one, which makes learning curves
over n comparable.
"""

import numpy as np
from numpy.typing import ArrayLike

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import Examples


def _check(n: int, total: int) -> None:
    if not 1 <= n <= total:
        raise InputError(
            f"a subset of {n} examples was asked for: the set has {total}, so it must "
            f"be between 1 and {total}"
        )


def balanced_rows(labels: ArrayLike, n: int, seed: int = 0) -> np.ndarray:
    """Draws the rows of a class-balanced subset, in the order of the source.

    Every class gives ``n // C`` examples; if n is no multiple of C, the remainder goes
    to classes drawn by the seed, one each.

    Args:
      labels: ``[total]`` integer classes; C counts those that occur.
      n: size of the subset.
      seed: which examples.

    Returns:
      ``[n]`` row numbers, ascending.

    Raises:
      InputError: if a class has too few, or n is out of range.

    Example:
      >>> labels = np.array([0, 0, 0, 1, 1, 1])
      >>> np.bincount(labels[balanced_rows(labels, 4)]).tolist()
      [2, 2]
    """
    labels = np.asarray(labels)
    _check(n, len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    rng = np.random.default_rng(seed)
    share, extra = divmod(n, len(classes))
    sizes = np.full(len(classes), share)
    sizes[rng.permutation(len(classes))[:extra]] += 1
    chosen = []
    for label, count, size in zip(classes, counts, sizes, strict=True):
        if size > count:
            raise InputError(
                f"class {label} has {count} examples, a balanced subset of {n} needs "
                f"{size}: at most {len(classes) * int(counts.min())} can be balanced"
            )
        chosen.append(rng.permutation(np.flatnonzero(labels == label))[:size])
    return np.sort(np.concatenate(chosen))


def random_rows(total: int, n: int, seed: int = 0) -> np.ndarray:
    """Draws the rows of a uniform subset, ascending; for regression.

    >>> len(random_rows(10, 4, seed=1))
    4
    """
    _check(n, total)
    return np.sort(np.random.default_rng(seed).permutation(total)[:n])


def subset_rows(targets: np.ndarray, n: int | None, seed: int = 0) -> np.ndarray:
    """Draws balanced rows for integer labels, random ones for floats; all without n."""
    if n is None:
        return np.arange(len(targets))
    if np.issubdtype(targets.dtype, np.integer):
        return balanced_rows(targets, n, seed)
    return random_rows(len(targets), n, seed)


def balanced_subset(examples: Examples, n: int, seed: int = 0) -> Examples:
    """Draws a class-balanced subset of labelled examples, see `balanced_rows`.

    >>> examples = Examples(np.arange(6), np.array([0, 1, 0, 1, 0, 1]))
    >>> sorted(balanced_subset(examples, 2).y.tolist())
    [0, 1]
    """
    rows = balanced_rows(examples.y, n, seed)
    return Examples(np.asarray(examples.x)[rows], np.asarray(examples.y)[rows])

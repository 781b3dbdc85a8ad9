"""Partitions of the neuroimaging experiments: given client sizes, age ranges, sites."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fedsparsify_jax.data.partitions import Parts
from fedsparsify_jax.errors import InputError

BRAIN_AGE_SIZES = {
    "uniform": (1037,) * 7 + (1097,),
    "uniform-non-iid": (1045,) * 4 + (1044,) * 4,
    "skewed": (2401, 1765, 1303, 964, 714, 528, 391, 290),
}
"""Scans of the 8 clients in the authors' three settings; each sums to 8,356."""


def _sizes(sizes: Sequence[int]) -> np.ndarray:
    checked = np.asarray(sizes)
    if checked.ndim != 1 or checked.size == 0:
        raise InputError(f"client sizes are {sizes}: expected one number a client")
    if not np.issubdtype(checked.dtype, np.integer) or checked.min() < 1:
        raise InputError(
            f"client sizes are {list(sizes)}: expected whole numbers of at least 1"
        )
    return checked.astype(np.int64)


def _cuts(n: int, sizes: Sequence[int]) -> np.ndarray:
    """Where n examples are cut; the sizes must use up all of them."""
    checked = _sizes(sizes)
    if checked.sum() != n:
        raise InputError(
            f"client sizes sum to {checked.sum()}, the data has {n} examples: rescale "
            "them with proportional_sizes"
        )
    return np.cumsum(checked)[:-1]


def proportional_sizes(n: int, sizes: Sequence[int]) -> list[int]:
    """Client sizes in (nearly) the same proportions that sum to exactly n.

    Every client first gets the whole part of its share; what is left goes to the
    largest fractions, the first client first among equals. Nobody is left without an
    example: clients whose share comes to nothing get one, taken from the largest.

    Args:
      n: examples to divide.
      sizes: the proportions, whole numbers of at least 1.

    Raises:
      InputError: if there are more clients than examples.

    Example:
      >>> proportional_sizes(100, BRAIN_AGE_SIZES["skewed"])
      [29, 21, 16, 11, 9, 6, 5, 3]
    """
    checked = _sizes(sizes)
    if n < len(checked):
        raise InputError(
            f"{len(checked)} clients for {n} examples: every client needs at least one"
        )
    # Whole-number arithmetic: the remainders are exact, so ties are true ties.
    whole, rest = np.divmod(checked * n, checked.sum())
    first = np.argsort(-rest, kind="stable")[: n - int(whole.sum())]
    whole[first] += 1
    for client in np.flatnonzero(whole == 0):
        whole[client] = 1
        whole[whole.argmax()] -= 1
    return whole.tolist()


def by_sizes(labels: ArrayLike, sizes: Sequence[int], seed: int = 0) -> Parts:
    """Shuffles the examples and gives every client the number it is to have.

    Args:
      labels: ``[n]`` labels or targets; only their number matters.
      sizes: examples of each client, summing to n.
      seed: who gets which.

    Raises:
      InputError: if the sizes do not sum to n.

    Example:
      >>> [len(part) for part in by_sizes(np.zeros(6), [3, 2, 1])]
      [3, 2, 1]
    """
    n = len(np.asarray(labels))
    return np.split(np.random.default_rng(seed).permutation(n), _cuts(n, sizes))


def value_skew(targets: ArrayLike, sizes: Sequence[int], seed: int = 0) -> Parts:
    """Every client holds one range of the target: the first client the smallest values.

    The examples are sorted by target and cut into blocks of the given sizes. In the
    brain age experiments this gives each client an age range.

    Args:
      targets: ``[n]`` numbers.
      sizes: examples of each client, summing to n.
      seed: in which order equal targets come, hence who gets them where a cut falls
        among them; and the order inside a client.

    Raises:
      InputError: if the sizes do not sum to n, or a target is NaN.

    Example:
      >>> [part.tolist() for part in value_skew([70.0, 50.0, 60.0], [1, 2], seed=1)]
      [[1], [2, 0]]
    """
    checked = np.asarray(targets)
    if checked.ndim != 1:
        raise InputError(f"targets have shape {checked.shape}: expected [examples]")
    if np.isnan(checked).any():
        raise InputError("targets hold NaN: clean them first")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(checked))
    by_value = order[np.argsort(checked[order], kind="stable")]
    blocks = np.split(by_value, _cuts(len(checked), sizes))
    return [rng.permutation(block) for block in blocks]


def by_group(groups: ArrayLike) -> Parts:
    """One client a group, such as the site where a scan was made; by sorted name.

    >>> [part.tolist() for part in by_group(["leeds", "bath", "leeds"])]
    [[1], [0, 2]]
    """
    checked = np.asarray(groups)
    if checked.ndim != 1 or checked.size == 0:
        raise InputError(f"groups have shape {checked.shape}: expected [examples]")
    return [np.flatnonzero(checked == group) for group in np.unique(checked)]

"""A test set for every client: test examples in the proportions of its own classes.

That is how personalised methods are judged, and no client has to give examples away for
it: the same rows of the central test set judge every algorithm under the same seed.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import ClientRows

_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
MOST = 500
"""Test examples of a client, at most: a standard error of 1 to 2 percentage points."""


def client_tests(
    targets: ArrayLike,
    parts: Sequence[np.ndarray],
    test_targets: ArrayLike,
    seed: int = 0,
    most: int = MOST,
) -> ClientRows:
    """Draws every client's rows of the test set, without repetition.

    A client has fewer than ``most`` where a class of its own has too few test examples
    for its proportion, and none if the test set has none of its classes.

    Args:
      targets: classes of the training examples.
      parts: the rows of them that every client holds.
      test_targets: classes of the test examples.
      seed: which examples.
      most: examples of a client.

    Raises:
      InputError: for targets that are no classes.

    Example:
      >>> parts = [np.array([0, 1, 2]), np.array([3])]
      >>> tests = client_tests([0, 0, 1, 1], parts, [0, 0, 1, 1])
      >>> tests.sizes.tolist(), sorted(tests.rows[0, :3].tolist())[:2]
      ([3, 2], [0, 1])
    """
    targets, test_targets = np.asarray(targets), np.asarray(test_targets)
    kinds = (targets.dtype, test_targets.dtype)
    if not all(np.issubdtype(kind, np.integer) for kind in kinds):
        raise InputError(
            "clients are evaluated in the proportions of their classes: the targets "
            "are numbers"
        )
    rng = np.random.default_rng(seed)
    classes = int(max(targets.max(initial=0), test_targets.max(initial=0))) + 1
    orders = [
        rng.permutation(np.flatnonzero(test_targets == label))
        for label in range(classes)
    ]
    available = np.array([len(order) for order in orders])
    drawn = []
    for part in parts:
        held = np.bincount(targets[part], minlength=classes)
        quotas = _quotas(held, available, most)
        # From a random place on, so that clients do not share all examples.
        starts = rng.integers(np.maximum(available, 1))
        picked = [
            np.take(order, start + np.arange(quota), mode="wrap")
            for order, start, quota in zip(orders, starts, quotas, strict=True)
            if quota
        ]
        drawn.append(np.concatenate([np.zeros(0, np.int64), *picked]))
    return stacked_rows(drawn)


def own_tests(
    owners: np.ndarray, kept: np.ndarray, seed: int = 0, most: int = MOST
) -> ClientRows:
    """Returns the test examples that every client brings along, or some of them.

    Args:
      owners: ``[m]``, the owner of every test example.
      kept: ``[N]``, the owner that each client is.
      seed: which examples, of clients with more than ``most``.
      most: examples of a client.

    Example:
      >>> own_tests(np.array([5, 9, 5]), np.array([5, 7])).sizes.tolist()
      [2, 0]
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(owners, kind="stable")
    first, last = (np.searchsorted(owners[order], kept, side) for side in _SIDES)
    drawn = [order[start:stop] for start, stop in zip(first, last, strict=True)]
    return stacked_rows(
        [rows if len(rows) <= most else rng.permutation(rows)[:most] for rows in drawn]
    )


def _quotas(held: np.ndarray, available: np.ndarray, most: int) -> np.ndarray:
    """Returns test examples of each class, in proportion to those that a client holds.

    >>> _quotas(np.array([9, 1, 0]), np.array([36, 36, 36]), 500).tolist()
    [36, 4, 0]
    """
    shares = np.where(available > 0, held, 0).astype(float)
    if not shares.any():
        return np.zeros(len(held), np.int64)
    shares /= shares.sum()
    fit = np.min(available[shares > 0] / shares[shares > 0])
    total = max(1, int(min(most, fit) + 1e-9))
    quotas = np.floor(total * shares + 1e-9).astype(np.int64)
    # The remainder goes to the largest fractions.
    order = np.argsort(quotas - total * shares, kind="stable")
    quotas[order[: total - quotas.sum()]] += 1
    return quotas


def stacked_rows(drawn: Sequence[np.ndarray]) -> ClientRows:
    """Returns row numbers of clients as one array, filled up with row 0.

    >>> stacked_rows([np.array([3]), np.array([1, 2])]).rows.tolist()
    [[3, 0], [1, 2]]
    """
    sizes = np.array([len(rows) for rows in drawn], np.int32)
    stacked = np.zeros((len(drawn), max(1, sizes.max(initial=1))), np.int32)
    for client, rows in enumerate(drawn):
        stacked[client, : len(rows)] = rows
    return ClientRows(rows=stacked, sizes=sizes)

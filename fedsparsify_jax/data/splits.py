"""A test set for sources that have none: some clients, or some examples of each."""

from typing import Literal

import numpy as np

from fedsparsify_jax.data.owners import Owners
from fedsparsify_jax.errors import InputError, counted

SplitBy = Literal["client", "example"]
_STREAM = 2  # its draws are not those of a subset with the same seed


def _some_clients(
    owners: Owners | None, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    """Returns which examples are for testing, and that in words."""
    if owners is None:
        raise InputError("--split-by client needs --client-column, their names")
    clients = len(owners.names)
    if clients < 2:
        raise InputError("--split-by client needs two clients or more: use example")
    number = min(max(1, round(fraction * clients)), clients - 1)
    chosen = np.zeros(clients, bool)
    chosen[rng.permutation(clients)[:number]] = True
    return chosen[owners.train], f"{number} of {clients:,} clients"


def _some_of_each(
    groups: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Returns which examples are for testing: a share of each group, not all of it."""
    shuffled = rng.permutation(len(groups))
    order = shuffled[np.argsort(groups[shuffled], kind="stable")]
    sizes = np.bincount(groups)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    quotas = np.minimum(np.rint(fraction * sizes), np.maximum(sizes - 1, 0))
    chosen = np.zeros(len(groups), bool)
    chosen[order] = np.arange(len(groups)) - starts < np.repeat(quotas, sizes)
    return chosen


def split_off(
    targets: np.ndarray,
    owners: Owners | None,
    by: SplitBy,
    fraction: float,
    seed: int = 0,
) -> tuple[np.ndarray, str]:
    """Chooses the test examples of a source that has one split.

    Args:
      targets: ``[n]``; integers are classes.
      owners: of all examples, as if all were for training; None if they are nobody's.
      by: ``"client"``: all examples of a share of the clients. ``"example"``: a share
        of every client's examples, but never all of them; where nobody owns them, of
        every class.
      fraction: the share, in (0, 1).
      seed: which ones.

    Returns:
      Bool ``[n]``, and a sentence about it.

    Raises:
      InputError: if there are no clients to choose from, or too few examples.

    Example:
      >>> owners = Owners(("a", "b"), np.array([0, 0, 0, 0, 1]))
      >>> chosen, said = split_off(np.zeros(5), owners, "example", 0.5)
      >>> int(chosen[:4].sum()), bool(chosen[4]), said
      (2, False, "test set: 2 of 5 examples, 50 % of each client's (seed 0)")
    """
    rng = np.random.default_rng([seed, _STREAM])
    if by == "client":
        chosen, what = _some_clients(owners, fraction, rng)
        said = f"those of {what}"
    else:
        groups, whose = np.zeros(len(targets), np.int64), "all"
        if owners is not None:
            groups, whose = owners.train, "each client's"
        elif targets.dtype.kind in "iu":
            groups, whose = np.unique(targets, return_inverse=True)[1], "each class"
        chosen = _some_of_each(groups, fraction, rng)
        said = f"{fraction * 100:g} % of {whose}"
    if not chosen.any():
        raise InputError(
            f"--test-fraction is {fraction:g}: that leaves none of "
            f"{counted(len(targets), 'example')} to test on"
        )
    examples = counted(len(targets), "example")
    return chosen, f"test set: {chosen.sum():,} of {examples}, {said} (seed {seed})"

"""Members and non-members: whom an attack asks about, and what shadow models see."""

from typing import NamedTuple

import numpy as np

from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.types import Examples

# Streams of the audit's seed.
_ASKED, _HALVES, _SHADOWS, _OTHERS = 1, 2, 3, 4


class Pool(NamedTuple):
    """All examples of an audit: the members, and after them the others.

    Attributes:
      train: examples that have the members.
      rows: of the members in these, ``[m]``.
      outside: the others.
    """

    train: Examples
    rows: np.ndarray
    outside: Examples

    @property
    def size(self) -> int:
        """Returns how many examples there are."""
        return len(self.rows) + len(self.outside.y)

    def take(self, rows: np.ndarray) -> Examples:
        """Returns some examples, by their numbers in the pool, which must rise."""
        inside, others = rows[rows < len(self.rows)], rows[rows >= len(self.rows)]

        def of(train: np.ndarray, outside: np.ndarray) -> np.ndarray:
            return np.concatenate(
                [train[self.rows[inside]], outside[others - len(self.rows)]]
            )

        return Examples(
            x=of(self.train.x, self.outside.x), y=of(self.train.y, self.outside.y)
        )


def asked(pool: Pool, examples: int, seed: int) -> np.ndarray:
    """Draws as many members as others: numbers in the pool, ascending.

    Args:
      pool: of the audit.
      examples: to draw at most.
      seed: of the audit.

    Raises:
      InputError: if there are too few of either.

    Example:
      >>> train = Examples(np.zeros((4, 1)), np.zeros(4))
      >>> pool = Pool(train, np.arange(4), Examples(np.ones((9, 1)), np.ones(9)))
      >>> pool.take(asked(pool, 6, seed=0)).y.tolist()
      [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """
    members, others = len(pool.rows), len(pool.outside.y)
    number = min(examples // 2, members, others)
    if number < 2:
        raise InputError(
            f"there are {counted(members, 'member')} and {counted(others, 'other')}: "
            "an attack needs two of each to be measured"
        )
    rng = np.random.default_rng([seed, _ASKED])
    inside = rng.choice(members, number, replace=False)
    outside = members + rng.choice(others, number, replace=False)
    return np.sort(np.concatenate([inside, outside]))


def others_like(number: int, total: int, seed: int) -> np.ndarray:
    """Draws at most ``number`` of ``total`` rows, ascending.

    With as many others as members, half of all is as much as the model attacked was
    trained on, so that shadow models memorise as much as it does.

    >>> others_like(9, 3, seed=0).tolist()
    [0, 1, 2]
    """
    rng = np.random.default_rng([seed, _OTHERS])
    return np.sort(rng.permutation(total)[:number])


def half(total: int, shadow: int, seed: int) -> np.ndarray:
    """Returns the examples that a shadow model is trained on, ascending.

    Shadows 2p and 2p + 1 have a random half and what it leaves, so that an even number
    of them have every example equally often.

    >>> sorted([*half(5, 0, seed=7), *half(5, 1, seed=7)]) == list(range(5))
    True
    """
    pair, second = divmod(shadow, 2)
    order = np.random.default_rng([seed, _HALVES, pair]).permutation(total)
    return np.sort(order[total // 2 :] if second else order[: total // 2])


def shadow_seed(shadow: int, seed: int) -> int:
    """Returns the seed of a shadow run, below 2^31.

    >>> shadow_seed(0, 5) != shadow_seed(1, 5), shadow_seed(3, 5) < 2**31
    (True, True)
    """
    draws = np.random.SeedSequence([seed, _SHADOWS, shadow]).generate_state(1)
    return int(draws[0]) >> 1

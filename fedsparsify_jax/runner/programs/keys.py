"""Where a run's random numbers come from."""

from typing import NamedTuple

import jax

from fedsparsify_jax.types import Key


class Keys(NamedTuple):
    """The run's sources of randomness, all from its seed."""

    model: Key
    state: Key
    rounds: Key

    @classmethod
    def from_seed(cls, seed: int) -> "Keys":
        """Keys that depend on the seed alone."""
        return cls(*jax.random.split(jax.random.key(seed), 3))

    def of_finish(self) -> Key:
        """The key of what comes after the last round."""
        return jax.random.fold_in(self.rounds, 0)

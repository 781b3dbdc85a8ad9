"""The terms of a sum: what its messages must agree on."""

import dataclasses
import math
import re

import numpy as np

from fedsparsify_jax.deploy.encrypted.order import pack
from fedsparsify_jax.deploy.encrypted.parameters import MOST_CLIENTS, margin
from fedsparsify_jax.deploy.wire import digest
from fedsparsify_jax.deploy.wire.names import flat
from fedsparsify_jax.errors import InputError, counted, shown
from fedsparsify_jax.types import Masks, Variables

_MOST_NUMBERS = 2**28  # 3.2 GB of message
_DIGEST = re.compile("[0-9a-f]{16}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """All that clients and server know of a sum, and its messages have in common."""

    round: int
    masks: str
    """Their digest, see `wire.digest`."""
    count: int
    """Numbers in a message."""
    bound: float
    """The largest number that can be sent."""

    def __post_init__(self) -> None:
        if type(self.round) is not int or not 0 <= self.round < 2**63:
            raise InputError(f"the round is {shown(self.round)}: it must count from 0")
        if type(self.count) is not int or not 0 <= self.count <= _MOST_NUMBERS:
            raise InputError(
                f"{shown(self.count)} numbers are no message: it has at most "
                f"{_MOST_NUMBERS:,}"
            )
        if not isinstance(self.masks, str) or not _DIGEST.fullmatch(self.masks):
            raise InputError(
                f"the digest of the masks is {shown(self.masks)}: it has 16 "
                "hexadecimal digits, see wire.digest"
            )
        number = isinstance(self.bound, int | float)  # NumPy's float64 is a float
        if not number or not 0 < self.bound < math.inf:
            raise InputError(
                f"the bound is {shown(self.bound)}: it must be a positive number"
            )


def terms_of(
    model: Variables,
    masks: Masks,
    *,
    round: int,
    clients: int,
    bound: float | None = None,
) -> Terms:
    """Returns the terms of a round, which clients and server work out alike.

    Args:
      model: the global model of this round's start, which all of them have.
      masks: what will be encrypted: the shared masks, or those just elected.
      round: its number.
      clients: how many may be in the sum.
      bound: the largest number that can be sent; by default as far above the largest
        weight of the model as the error of 1e-6 allows, see `parameters.margin`.

    Raises:
      InputError: if the masks do not fit, or there are too many clients.

    Example:
      >>> model = {"w": np.array([0.5, -0.25, 0.0], np.float32)}
      >>> kept = {"w": np.array([True, True, False])}
      >>> terms = terms_of(model, kept, round=3, clients=12)
      >>> terms.count, round(terms.bound)
      (2, 16)
    """
    if not 1 <= clients <= MOST_CLIENTS:
        raise InputError(
            f"{counted(clients, 'client')} cannot be in one sum: 1 to "
            f"{MOST_CLIENTS:,} can, for the noise grows with them"
        )
    numbers = pack(model, masks)
    if bound is None:
        largest = float(np.max(np.abs(numbers), initial=0.0)) or 1.0
        bound = largest * margin(clients)
    return Terms(
        round=round,
        masks=digest(flat(masks, "masks")[0]),
        count=len(numbers),
        bound=bound,
    )

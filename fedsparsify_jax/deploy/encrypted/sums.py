"""The three parts of an encrypted sum: encrypt, add, decrypt."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from fedsparsify_jax.deploy.encrypted import envelope, messages, seal
from fedsparsify_jax.deploy.encrypted.keys import public_part
from fedsparsify_jax.deploy.encrypted.messages import Encrypted
from fedsparsify_jax.deploy.encrypted.parameters import (
    DEGREE,
    LEVELS,
    MOST_CLIENTS,
    PRIME,
    STEP,
)
from fedsparsify_jax.deploy.encrypted.terms import Terms
from fedsparsify_jax.errors import InputError, counted, shown

_FAR = 0.45  # of a step: noise that the sum of `MOST_CLIENTS` has once in 10^27 numbers


class Total(NamedTuple):
    """A decrypted sum."""

    numbers: np.ndarray  # float64 [k]: the sum of shares times numbers
    share: float  # the sum of shares
    clients: int  # in the sum

    @property
    def mean(self) -> np.ndarray:
        """Returns the mean of the clients in it by their shares: float64 ``[k]``."""
        return self.numbers / self.share


def encrypt(numbers: np.ndarray, public: bytes, share: float, terms: Terms) -> bytes:
    """Encrypts one client's numbers times its share.

    Args:
      numbers: ``[k]``, see `order.pack`.
      public: the public key.
      share: of this client in the mean: n_k over the examples of all clients.
      terms: of the sum that this is for.

    Returns:
      The message, of `messages.size` bytes.

    Raises:
      InputError: for numbers that cannot be sent under these terms, another share, a
        key that is none, or without the package ``tenseal``.
    """
    key, body = public_part(public)
    if not isinstance(share, int | float | np.floating) or not 0 < share <= 1:
        raise InputError(
            f"the share is {shown(share)}: it must be above 0 and at most 1, and a "
            "client without examples sends nothing"
        )
    levels = np.rint(_checked(numbers, terms) * (float(share) * LEVELS / terms.bound))
    polynomials = np.zeros((messages.chunks(terms.count), DEGREE))
    polynomials.reshape(-1)[: terms.count] = levels * STEP
    residues = seal.encrypted(polynomials, bytes(body))
    message = Encrypted(residues=residues, clients=1, share=float(share))
    return messages.write(message, key, terms)


def _checked(numbers: np.ndarray, terms: Terms) -> np.ndarray:
    numbers = np.asarray(numbers, np.float64)
    if numbers.shape != (terms.count,):
        raise InputError(
            f"the numbers have the shape {numbers.shape}, those of this sum "
            f"({terms.count},)"
        )
    if not np.isfinite(numbers).all():
        raise InputError("a number is NaN or infinite: this client cannot take part")
    largest = float(np.max(np.abs(numbers), initial=0.0))
    if largest > terms.bound:
        raise InputError(
            f"a number is {largest:.6g} in size, beyond the bound {terms.bound:.6g}: "
            "agree on a larger bound"
        )
    return numbers


def add(
    arriving: Iterable[bytes],
    public: bytes,
    terms: Terms,
    *,
    clients: int | None = None,
) -> bytes:
    """Adds encrypted messages, one after the other as they arrive.

    No package but NumPy is needed, and no more memory than for the sum and a message.

    Args:
      arriving: messages of clients, or sums of such.
      public: the public key.
      terms: of the sum.
      clients: how many must be in it; by default, whoever is.

    Returns:
      A message, for the key holder.

    Raises:
      InputError: if a message is damaged, for another key or sum, there twice, or
        missing.
    """
    key, _ = public_part(public)
    total = np.zeros((messages.chunks(terms.count), 2, DEGREE), np.uint64)
    shares: list[float] = []
    digests: set[bytes] = set()
    number = 0
    for content in arriving:
        message = messages.read(content, key, terms)
        digests.add(envelope.digest(content))
        shares.append(message.share)
        number += message.clients
        _check_so_far(digests, shares, number)
        total += message.residues  # 1,000 numbers below 2^48 stay below 2^58
    if not shares:
        raise InputError("there are no messages to add: wait for clients")
    check_clients(number, clients)
    sum_ = Encrypted(
        residues=total % np.uint64(PRIME), clients=number, share=math.fsum(shares)
    )
    return messages.write(sum_, key, terms)


def _check_so_far(digests: set[bytes], shares: list[float], clients: int) -> None:
    if len(digests) < len(shares):
        raise InputError("the same encrypted message is there twice: leave one out")
    if clients > MOST_CLIENTS:
        raise InputError(
            f"there are more than {MOST_CLIENTS:,} clients: their noise would be too "
            "large, make several sums"
        )
    if math.fsum(shares) > 1 + 1e-9:
        raise InputError(
            f"the shares add up to {math.fsum(shares):.6g}: they are n_k over the "
            "examples of all clients, and so at most 1"
        )


def check_clients(number: int, expected: int | None) -> None:
    """Checks that all clients are in a sum.

    Raises:
      InputError: if not.
    """
    if expected is not None and number != expected:
        raise InputError(
            f"the sum is of {counted(number, 'client')}, {expected:,} are expected: "
            "wait for the others, or take the mean of these with clients=None"
        )


def decrypt(
    content: bytes, secret: bytes, terms: Terms, *, clients: int | None = None
) -> Total:
    """Decrypts a sum, exactly: its noise is rounded away.

    Args:
      content: what `add` returned.
      secret: the secret key.
      terms: of the sum.
      clients: how many must be in it, as the message says; by default, any number.

    Raises:
      InputError: if the message is damaged, for another key or sum, of fewer clients,
        or was not made by `encrypt` and `add`; or without the package ``tenseal``.
    """
    key, body = envelope.opened(secret, envelope.SECRET)
    message = messages.read(content, key, terms)
    check_clients(message.clients, clients)
    polynomials = seal.decrypted(message.residues, bytes(body)).reshape(-1)
    levels = np.rint(polynomials / STEP)
    far = np.abs(polynomials - levels * STEP).max(initial=0.0) > _FAR * STEP
    if far or levels[terms.count :].any():
        raise InputError(
            "this key makes no numbers of the message: it was encrypted otherwise, or "
            "changed on its way"
        )
    numbers = levels[: terms.count] * (terms.bound / LEVELS)
    return Total(numbers=numbers, share=message.share, clients=message.clients)

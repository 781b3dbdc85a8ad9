"""Keys: the secret one of the key holder, and the public one of everybody else."""

import dataclasses

from fedsparsify_jax.deploy.encrypted import envelope, seal
from fedsparsify_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Keys:
    """A pair of keys; neither is shown."""

    secret: bytes = dataclasses.field(repr=False)
    """Of the key holder, and nobody else."""
    public: bytes = dataclasses.field(repr=False)
    """Of clients and the server; by a way that the server cannot tamper with."""


def make() -> Keys:
    """Makes new keys; with them, what was encrypted before cannot be decrypted.

    Raises:
      InputError: without the package ``tenseal``.
    """
    secret, public = seal.key_pair()
    key = envelope.digest(public)
    return Keys(
        secret=envelope.sealed(envelope.SECRET, key, secret),
        public=envelope.sealed(envelope.PUBLIC, key, public),
    )


def fingerprint(public: bytes) -> str:
    """Returns 32 hexadecimal digits, for people to compare over another channel.

    Args:
      public: a public key, as `make` returns it.

    Raises:
      InputError: if it is none.
    """
    return public_part(public).key.hex()


def public_part(public: bytes) -> envelope.Opened:
    """Returns a public key's digest, and the key as SEAL writes it.

    Raises:
      InputError: if it is none.
    """
    opened = envelope.opened(public, envelope.PUBLIC)
    if envelope.digest(opened.body) != opened.key:
        raise InputError("this public key is not the one that it says it is")
    return opened

"""Keys: the secret one of the key holder, and the public one of everybody else."""

import dataclasses

from fedsparsify_jax.deploy.encrypted import envelope, seal


@dataclasses.dataclass(frozen=True)
class Keys:
    """A pair of keys; the secret one is not shown."""

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

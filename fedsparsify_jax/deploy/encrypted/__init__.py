"""Encrypted aggregation: the server adds what it cannot read.

Clients encrypt their surviving weights, times their shares, in the order of masks that
all of them know; the server adds the messages; a key holder decrypts the sum. Needs the
extra ``encrypted``, but for adding. ``docs/encryption.md`` has the formats, and who
sees what, and an example.
"""

from fedsparsify_jax.deploy.encrypted.keys import Keys as Keys
from fedsparsify_jax.deploy.encrypted.keys import fingerprint as fingerprint
from fedsparsify_jax.deploy.encrypted.keys import make as make_keys
from fedsparsify_jax.deploy.encrypted.messages import size as size
from fedsparsify_jax.deploy.encrypted.order import pack as pack
from fedsparsify_jax.deploy.encrypted.order import unpack as unpack
from fedsparsify_jax.deploy.encrypted.rounds import aggregate as aggregate
from fedsparsify_jax.deploy.encrypted.sums import Total as Total
from fedsparsify_jax.deploy.encrypted.sums import add as add
from fedsparsify_jax.deploy.encrypted.sums import decrypt as decrypt
from fedsparsify_jax.deploy.encrypted.sums import encrypt as encrypt
from fedsparsify_jax.deploy.encrypted.terms import Terms as Terms
from fedsparsify_jax.deploy.encrypted.terms import terms_of as terms_of

__all__ = [
    "Keys",
    "Terms",
    "Total",
    "add",
    "aggregate",
    "decrypt",
    "encrypt",
    "fingerprint",
    "make_keys",
    "pack",
    "size",
    "terms_of",
    "unpack",
]

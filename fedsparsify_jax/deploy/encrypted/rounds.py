"""One round with encryption, all its parties in one process, as simulations have it."""

from collections.abc import Sequence

import numpy as np

from fedsparsify_jax.deploy.encrypted.keys import Keys
from fedsparsify_jax.deploy.encrypted.order import counters, pack, unpack
from fedsparsify_jax.deploy.encrypted.sums import add, decrypt, encrypt
from fedsparsify_jax.deploy.encrypted.terms import Terms
from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.types import Masks, Variables


def aggregate(
    variables: Sequence[Variables],
    masks: Masks,
    shares: Sequence[float],
    keys: Keys,
    terms: Terms,
) -> Variables:
    """Returns the weighted mean of clients' variables, which the server never sees.

    Clients encrypt, the server adds, the key holder decrypts. FedSparsify-Local takes
    two exchanges: clients send their masks in plaintext, the server elects
    (`masks.majority_vote`) and sends the elected masks back; then clients encrypt the
    elected entries of their pruned weights, zeros among them.

    Args:
      variables: of each client; in Local, zero where its own masks drop it. Their whole
        numbers are not encrypted, and must be the same for all.
      masks: the shared ones, or the elected ones.
      shares: of each client in the mean, at most 1 in sum; clients of share 0 are left
        out, whatever their numbers are.
      keys: see `keys.make`.
      terms: see `terms_of`.

    Returns:
      The mean by shares, NumPy arrays in the clients' dtypes, zero where the masks drop
      it; within 1e-6 of the largest weight, if the bound is that of `terms_of`.

    Raises:
      InputError: if something does not fit, or without the package ``tenseal``.
    """
    if len(variables) != len(shares):
        raise InputError(
            f"{counted(len(variables), 'client')} have {counted(len(shares), 'share')}"
        )
    members = [
        (tree, share) for tree, share in zip(variables, shares, strict=True) if share
    ]
    if not members:
        raise InputError("no client has a share: there is nothing to merge")
    like = members[0][0]
    _check_counters([tree for tree, _ in members])
    arriving = (
        encrypt(pack(tree, masks), keys.public, float(share), terms)
        for tree, share in members
    )
    message = add(arriving, keys.public, terms, clients=len(members))
    total = decrypt(message, keys.secret, terms, clients=len(members))
    return unpack(total.mean, masks, like)


def _check_counters(trees: Sequence[Variables]) -> None:
    """Checks that the clients have the same whole numbers.

    Raises:
      InputError: if not.
    """
    first = counters(trees[0])
    for tree in trees[1:]:
        other = counters(tree)
        for name in first.keys() | other.keys():
            both = name in first and name in other
            if not both or not np.array_equal(first[name], other[name]):
                raise InputError(
                    f"clients differ in {name}, whole numbers that are not encrypted: "
                    "keep them out of the model, or make them floats"
                )

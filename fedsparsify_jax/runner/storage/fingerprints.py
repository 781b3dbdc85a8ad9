"""What a run was made of, as short digests: a changed data set cannot go unnoticed."""

import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from fedsparsify_jax.runner.programs.federation import Federation

Fingerprints = dict[str, str]

WHOLE = 2**30
"""Bytes of an array up to which all of it is read; of larger ones, evenly spread rows
that add up to so many."""

_PIECE = 2**24


def digest(arrays: Iterable[Any]) -> str:
    """BLAKE2b of the dtypes, shapes and numbers of arrays, in order.

    Args:
      arrays: NumPy arrays ``[n, ...]`` of any dtype but objects; may be mapped from
        disk, and are read piece by piece.

    Example:
      >>> one = digest([np.arange(4)])
      >>> one == digest([np.arange(4)]), one == digest([np.arange(4).reshape(2, 2)])
      (True, False)
    """
    total = hashlib.blake2b(digest_size=16)
    for array in arrays:
        rows = np.asarray(array)
        total.update(f"{rows.dtype.str}{rows.shape}".encode())
        pieces = max(1, -(-rows.nbytes // _PIECE))
        every = max(1, -(-rows.nbytes // WHOLE))
        for piece in np.array_split(rows, pieces)[::every]:
            total.update(np.ascontiguousarray(piece).view(np.uint8).data)
    return total.hexdigest()


def fingerprints(federation: Federation, keys: Iterable[jax.Array]) -> Fingerprints:
    """Digests of what decides a run's future besides its options and its state.

    Args:
      federation: with its data as loaded.
      keys: the run's, which another version of JAX may draw otherwise.
    """
    dataset, parts = federation.dataset, federation.parts
    if federation.population is not None:
        divided = [federation.population.offsets]
    else:
        divided = [np.array([len(part) for part in parts]), np.concatenate(parts)]
    bits: Any = jax.random.key_data
    return {
        "data set": digest([*dataset.train, *dataset.test]),
        "partition": digest(divided),
        "random keys": digest(np.asarray(bits(key)) for key in keys),
    }

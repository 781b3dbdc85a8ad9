"""Bytes moved, by the formula of the FedSparsify authors.

A message costs 32 bit for every non-zero number of the model; where the non-zeros are
(a mask or indices) is not counted. A round moves

    sum over the cohort of nnz(model the client sends) + K * nnz(new global model)

numbers (reference: the authors' code, commit 65b0a49; batch statistics count too).
"""

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.types import Variables

BYTES_PER_NUMBER = 4


def nonzero_bytes(variables: Variables) -> jax.Array:
    """Bytes of one message with this model: non-zeros x 32 bit, a uint32 scalar.

    Exact up to 2^30 non-zeros.

    >>> nonzero_bytes({"params": {"w": jnp.array([0.0, 1.5, -2.0])}})
    Array(8, dtype=uint32)
    """
    return trees.nonzeros(variables).astype(jnp.uint32) * BYTES_PER_NUMBER


def dense_bytes(variables: Variables) -> int:
    """Bytes of one message with this model if nothing were pruned.

    >>> dense_bytes({"params": {"w": jnp.array([0.0, 1.5, -2.0])}})
    12
    """
    return trees.size(variables) * BYTES_PER_NUMBER

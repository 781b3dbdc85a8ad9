"""Federated algorithms, one short file a paper."""

from fedsparsify_jax.algorithms.fedavg import fedavg as fedavg
from fedsparsify_jax.algorithms.fedsparsify_global import (
    fedsparsify_global as fedsparsify_global,
)
from fedsparsify_jax.algorithms.fedsparsify_local import (
    fedsparsify_local as fedsparsify_local,
)

__all__ = ["fedavg", "fedsparsify_global", "fedsparsify_local"]

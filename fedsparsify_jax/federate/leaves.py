"""Any tree of arrays as a message, for a receiver that has a tree of the same form."""

from typing import Any

import jax

from fedsparsify_jax.deploy import wire
from fedsparsify_jax.deploy.exchange import check_structure
from fedsparsify_jax.types import PyTree


def write(tree: PyTree) -> bytes:
    """Returns the leaves of a tree as a message; zeros take no room.

    >>> import numpy as np
    >>> tree = (np.arange(3), {"a": np.float32(1)})
    >>> read(write(tree), tree)
    (array([0, 1, 2]), {'a': array(1., dtype=float32)})
    """
    return wire.encode(_numbered(tree), nonzero=True)


def read(message: bytes, like: PyTree, what: str = "the message") -> PyTree:
    """Returns the tree of a message.

    Args:
      message: of `write`.
      like: a tree of the same form, or of shapes and dtypes.
      what: it is, for errors.

    Raises:
      InputError: if it has other leaves.
    """
    variables = wire.decode(message).variables
    check_structure(variables, _numbered(like), what)
    leaves = [variables[name] for name in _numbered(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _numbered(tree: PyTree) -> dict[str, Any]:
    return {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(tree))}

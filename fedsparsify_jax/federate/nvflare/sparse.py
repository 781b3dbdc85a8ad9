"""The arrays of a message as the sparse messages of `deploy.exchange`, and back."""

from collections.abc import Mapping
from typing import Any

from fedsparsify_jax import trees
from fedsparsify_jax.deploy import exchange
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.nvflare.arrays import (
    MASKS,
    VARIABLES,
    Arrays,
    bits,
    message_of,
)

_PARTS = (exchange.MODEL, exchange.MASKS)
_SPARSE = "sparse/"
"""Begins the names of arrays that are messages."""


def encoded(form: exchange.Exchange, arrays: Mapping[str, Any]) -> Arrays | None:
    """Returns the arrays with model and masks as messages; None if there are none.

    Args:
      form: of the messages.
      arrays: of `arrays.flat`; what is no part of the model is left as it is.

    Example:
      >>> import numpy as np
      >>> w = np.zeros(1000, np.float32)
      >>> dense = {"variables/w": w, "masks/w": w.astype(bool)}
      >>> sparse = encoded(exchange.Exchange(), dense)
      >>> sparse["sparse/model"].size < 300
      True
      >>> decoded(sparse).keys() == dense.keys()
      True
    """
    inside = {name: leaf for name, leaf in arrays.items() if _is_model(name)}
    tree = trees.nested(inside)
    if tree.keys() != {VARIABLES, MASKS}:
        return None
    parts = exchange.write_model(form, tree[VARIABLES], tree[MASKS], None)
    rest = {name: leaf for name, leaf in arrays.items() if name not in inside}
    return rest | {_SPARSE + name: bits(part) for name, part in parts.items()}


def decoded(arrays: Mapping[str, Any]) -> Arrays | None:
    """Returns what `encoded` was given; None for arrays without messages.

    Raises:
      InputError: for a message that is none.
    """
    names = {name: _SPARSE + name for name in _PARTS if _SPARSE + name in arrays}
    if not names:
        return None
    parts = {part: message_of(arrays, name) for part, name in names.items()}
    sent = exchange.read_model(parts, None, None)
    rest = {k: leaf for k, leaf in arrays.items() if k not in names.values()}
    tree = {VARIABLES: sent.variables, MASKS: sent.masks}
    return rest | dict(trees.named_leaves(tree))


def size(arrays: Mapping[str, Any]) -> int:
    """Returns the bytes of arrays.

    Raises:
      InputError: for what has none.
    """
    try:
        return sum(int(array.nbytes) for array in arrays.values())
    except AttributeError as error:
        raise InputError("the message has something else than arrays") from error


def _is_model(name: str) -> bool:
    return name.partition("/")[0] in (VARIABLES, MASKS)

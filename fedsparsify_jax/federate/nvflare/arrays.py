"""A model and its masks as the flat dict of arrays that an `FLModel` has.

Names are paths: ``variables/params/dense/kernel`` and, for its mask, the same below
``masks``. What else travels is one message of `federate.leaves`, as bytes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedsparsify_jax import trees
from fedsparsify_jax.deploy import exchange
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import Masks, Variables

VARIABLES, MASKS, MORE = "variables", "masks", "more"
FACTS = "fedsparsify"
"""The key of `FLModel.meta` for what JSON can say."""

Arrays = dict[str, np.ndarray]


class Content(NamedTuple):
    """The arrays and facts of a message in either direction."""

    arrays: Mapping[str, Any]
    facts: Mapping[str, Any]


def flat(variables: Variables, masks: Masks, more: bytes) -> Arrays:
    """Returns the arrays of a message.

    Args:
      variables: host arrays.
      masks: of the same structure.
      more: of what is no model.

    Example:
      >>> w = {"w": np.ones(2)}
      >>> list(flat(w, w, b"loss"))
      ['masks/w', 'variables/w', 'more']
    """
    leaves = trees.named_leaves({VARIABLES: variables, MASKS: masks})
    return {name: np.asarray(leaf) for name, leaf in leaves} | {MORE: bits(more)}


def model_of(
    arrays: Mapping[str, Any], variables: Variables, masks: Masks
) -> exchange.Sent:
    """Returns the model of a message.

    Args:
      arrays: of `flat`.
      variables: arrays of the same shapes, or these alone.
      masks: the same.

    Raises:
      InputError: if it has other arrays.
    """
    like = {VARIABLES: variables, MASKS: masks}
    names = [name for name, _ in trees.named_leaves(like)]
    leaves = [arrays.get(name) for name in names]
    if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        raise InputError("the message has other arrays than this federation's")
    tree = jax.tree.unflatten(jax.tree.structure(like), leaves)
    exchange.check_structure(tree, like, "the message")
    return exchange.Sent(variables=tree[VARIABLES], masks=tree[MASKS], is_change=False)


def bits(message: bytes) -> np.ndarray:
    """Returns bytes as an array.

    >>> bits(b"ab")
    array([97, 98], dtype=uint8)
    """
    return np.frombuffer(message, np.uint8)


def message_of(arrays: Mapping[str, Any], name: str) -> bytes:
    """Returns the bytes in an array, b"" if it is missing.

    >>> message_of({"more": bits(b"ab")}, "more")
    b'ab'

    Raises:
      InputError: if it has no bytes.
    """
    array = arrays.get(name)
    if array is None:
        return b""
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 1:
        raise InputError(f"the message has no bytes as {name!r}")
    return array.tobytes()

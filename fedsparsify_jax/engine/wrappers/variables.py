"""Checks of the variables that a federation starts from."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import trees
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.types import Variables

_TRAINABLE = ("float16", "bfloat16", "float32", "float64")


def checked(variables: Any) -> Variables:
    """Returns the variables as dicts of arrays that the caller no longer shares.

    Raises:
      InputError: naming the leaf that cannot be trained, merged or pruned.

    Example:
      >>> checked({"params": {"w": 1.0, "steps": jnp.int32(0)}})
      Traceback (most recent call last):
      ...
      fedsparsify_jax.errors.InputError: variables: params/steps is int32: parameters \
must be float16, bfloat16, float32 or float64; move what is not trained to another \
collection, beside params
    """
    variables = _plain(variables)
    if not isinstance(variables, dict) or "params" not in variables:
        got = f"a {type(variables).__name__}"
        if isinstance(variables, Mapping):
            got = f"the keys {sorted(map(str, variables))}"
        raise InputError(
            'variables must be a dict of collections such as {"params": ...}; '
            f"got {got}"
        )
    for name, leaf in trees.named_leaves(variables):
        _check(name, leaf)
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(variables["params"])]
    if not sum(sizes):
        raise InputError("variables: params has no numbers: there is nothing to train")
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), variables)


def _plain(tree: Any) -> Any:
    """Makes dicts of Flax's frozen ones, at any depth."""
    if hasattr(tree, "unfreeze"):
        tree = tree.unfreeze()
    if type(tree) is dict:
        return {name: _plain(branch) for name, branch in tree.items()}
    return tree


def _check(name: str, leaf: Any) -> None:
    try:
        dtype = jnp.result_type(leaf)
    except Exception as error:  # TypeError, ValueError, and JAX's own
        raise InputError(f"variables: {name} is {shown(leaf)}, no array") from error
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise InputError(
            f"variables: {name} is a PRNG key, which cannot be merged: keep keys out "
            "of the variables; apply_fn gets a fresh key in every training step"
        )
    trained = name.split("/")[0] == "params"
    if trained and dtype.name not in _TRAINABLE:
        raise InputError(
            f"variables: {name} is {dtype.name}: parameters must be "
            f"{', '.join(_TRAINABLE[:-1])} or {_TRAINABLE[-1]}; move what is not "
            "trained to another collection, beside params"
        )

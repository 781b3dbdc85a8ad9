"""A stranger's forward pass, and the reasons why a round cannot use it."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax

from fedsparsify_jax import trees
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.types import ApplyFn, Variables

_ADVICE = (
    "wrap a Flax module by models.from_linen or models.from_nnx, plain functions by "
    "models.from_functions, and pass the model's apply"
)


def check_signature(apply_fn: ApplyFn) -> None:
    """Refuses what cannot be called as `types.ApplyFn`.

    Raises:
      InputError: naming what is missing, and what makes such a function.

    Example:
      >>> check_signature(lambda params, x: x)
      Traceback (most recent call last):
      ...
      fedsparsify_jax.errors.InputError: apply_fn cannot be called as (variables, x, \
train=, key=, valid=) (got an unexpected keyword argument 'train'): wrap a Flax module \
by models.from_linen or models.from_nnx, plain functions by models.from_functions, and \
pass the model's apply
    """
    if not callable(apply_fn):
        raise InputError(f"apply_fn is {shown(apply_fn)}, no function: {_ADVICE}")
    try:
        signature = inspect.signature(apply_fn)
    except (TypeError, ValueError):  # of a function that does not say
        return
    try:
        signature.bind({}, None, train=True, key=None, valid=None)
    except TypeError as error:
        raise InputError(
            "apply_fn cannot be called as (variables, x, train=, key=, valid=) "
            f"({error}): {_ADVICE}"
        ) from error


def training_pass(
    apply_fn: ApplyFn, variables: Variables, x: jax.Array, **flags: Any
) -> tuple[jax.Array, Variables]:
    """Runs the forward pass of a training step, and checks what it returns.

    Returns:
      The outputs ``[B, ...]`` and the changed collections, in the dtypes of the old.

    Raises:
      InputError: for any other result, when the pass is traced.
    """
    try:
        answer = apply_fn(variables, x, train=True, **flags)
    except TypeError as error:
        if "unexpected keyword argument 'train'" not in str(error):
            raise
        raise InputError(f"apply_fn: {error}; {_ADVICE}") from error
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise InputError(
            f"apply_fn returns {_kind(answer)}: it must return the outputs and the "
            f"collections that changed, {{}} if none did; {_ADVICE}"
        )
    outputs, changed = answer
    if not isinstance(changed, Mapping):
        raise InputError(
            f"apply_fn returns {_kind(changed)} beside its outputs: it must be a dict "
            "of the collections that changed, {} if none did"
        )
    _check_outputs(outputs, x)
    return outputs, {name: _like(variables, name, changed[name]) for name in changed}


def _kind(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    shape = getattr(value, "shape", None)
    name = type(value).__name__
    return f"a {name}" if shape is None else f"an array of shape {list(shape)}"


def _check_outputs(outputs: Any, x: jax.Array) -> None:
    for leaf in jax.tree.leaves(outputs):
        shape = getattr(leaf, "shape", ())
        if not shape or shape[0] != x.shape[0]:
            raise InputError(
                f"apply_fn returns outputs of shape {list(shape)} for a batch of "
                f"{x.shape[0]}: their first axis must be that of the batch, [B, ...]"
            )


def _like(variables: Variables, name: str, new: Any) -> Any:
    """Returns a changed collection in the dtypes of the old one."""
    if name not in variables or name == "params":
        known = ", ".join(other for other in variables if other != "params") or "none"
        raise InputError(
            f"apply_fn changes the collection {name!r}: it may only change those of "
            f"the variables beside params (here {known}); what it changes must be in "
            "the variables from the start"
        )
    old = variables[name]
    before, after = map(jax.tree_util.tree_structure, (old, new))
    if str(before) != str(after):
        raise InputError(
            f"apply_fn changes the structure of {name!r}, from {shown(before)} to "
            f"{shown(after)}"
        )
    for (path, a), b in zip(trees.named_leaves(old), jax.tree.leaves(new), strict=True):
        if a.shape != b.shape:
            raise InputError(
                f"apply_fn changes the shape of {name}/{path}, from {list(a.shape)} to "
                f"{list(b.shape)}"
            )
    return trees.cast_like(new, old)

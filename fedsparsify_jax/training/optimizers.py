"""Any Optax transformation as clients call it, and the reasons why one cannot be."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax

from fedsparsify_jax import trees
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.types import PyTree


def extra_arguments(
    value: jax.Array, grad: PyTree, value_fn: Callable[[PyTree], jax.Array]
) -> dict[str, Any]:
    """Returns what Optax's transformations ask for beside gradients.

    Args:
      value: loss of the batch.
      grad: its gradients.
      value_fn: parameters to that loss.

    Returns:
      ``value``, ``grad`` and ``value_fn`` (line searches, ``polyak_sgd``,
      ``reduce_on_plateau``), ``obj_fn`` (``contrib.sophia``) and ``grad_fn``
      (``contrib.sam``).
    """

    # A line search hands on, by their names, what it does not take itself.
    def loss(params: PyTree, *, grad_fn: Any = None, obj_fn: Any = None) -> jax.Array:
        del grad_fn, obj_fn
        return value_fn(params)

    def grad_fn(params: PyTree, *_: Any, **__: Any) -> PyTree:
        return jax.grad(value_fn)(params)

    return {
        "value": value,
        "grad": grad,
        "value_fn": loss,
        "obj_fn": loss,
        "grad_fn": grad_fn,
    }


def for_clients(optimizer: optax.GradientTransformation) -> Any:
    """Returns the transformation with extra arguments, which says why it fails.

    Clients call it on the tree of their parameters, as it is within its collection,
    with those of `extra_arguments` that it takes.

    Args:
      optimizer: any Optax transformation of a tree of parameters.

    Returns:
      An ``optax.GradientTransformationExtraArgs``.

    Raises:
      InputError: for what is no Optax transformation; when its ``init`` or ``update``
        are called, if they fail.

    Example:
      >>> for_clients(optax.adam)
      Traceback (most recent call last):
      ...
      fedsparsify_jax.errors.InputError: optimizer is a function: call it first, as in \
optax.adam(1e-3)
    """
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        if callable(optimizer):
            name = getattr(optimizer, "__name__", "optimizer")
            raise InputError(
                f"optimizer is a function: call it first, as in optax.{name}(1e-3)"
            )
        raise InputError(
            f"optimizer is {shown(optimizer)}: it must be an Optax transformation, "
            "such as optax.adam(1e-3)"
        )
    extended = optax.with_extra_args_support(optimizer)
    taken = inspect.signature(extended.update).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in taken.values())

    def init(params: PyTree) -> PyTree:
        try:
            return extended.init(params)
        except InputError:
            raise
        except Exception as error:  # whatever a stranger's code raises
            raise _failure("init", error, params) from error

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        extra = {k: v for k, v in extra.items() if takes_all or k in taken}
        try:
            return extended.update(updates, state, params, **extra)
        except InputError:
            raise
        except Exception as error:
            raise _failure("update", error, params) from error

    return optax.GradientTransformationExtraArgs(init, update)


def _failure(part: str, error: Exception, params: PyTree) -> InputError:
    names = ", ".join(name for name, _ in trees.named_leaves(params))
    return InputError(
        f"optimizer: its {part} fails ({type(error).__name__}: {error}); it must be an "
        f"Optax transformation of the tree of parameters, here with the leaves {names}"
    )

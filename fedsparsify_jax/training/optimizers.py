"""Any Optax transformation as clients call it, and the reasons why one cannot be."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.typing import ArrayLike

from fedsparsify_jax import trees
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.types import PyTree


def extra_arguments(
    value: jax.Array,
    grad: PyTree,
    value_fn: Callable[[PyTree], jax.Array],
    project: Callable[[PyTree], PyTree],
) -> dict[str, Any]:
    """Returns what Optax's transformations ask for beside gradients.

    Args:
      value: loss of the batch.
      grad: its gradients.
      value_fn: parameters to that loss.
      project: a tree of parameters to the tree without what is pruned.

    Returns:
      ``value``, ``grad`` and ``value_fn`` (line searches, ``polyak_sgd``,
      ``reduce_on_plateau``), ``obj_fn`` (``contrib.sophia``), ``grad_fn``
      (``contrib.sam``) and ``project`` (`lars`).
    """

    # A line search hands on, by their names, what it does not take itself.
    def loss(
        params: PyTree, *, grad_fn: Any = None, obj_fn: Any = None, project: Any = None
    ) -> jax.Array:
        del grad_fn, obj_fn, project
        return value_fn(params)

    def grad_fn(params: PyTree, *_: Any, **__: Any) -> PyTree:
        return jax.grad(value_fn)(params)

    return {
        "value": value,
        "grad": grad,
        "value_fn": loss,
        "obj_fn": loss,
        "grad_fn": grad_fn,
        "project": project,
    }


def lars(
    learning_rate: ArrayLike,
    *,
    weight_decay: ArrayLike = 0.0,
    trust_coefficient: ArrayLike = 0.001,
    momentum: ArrayLike = 0.9,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Builds LARS of weights under masks: ``optax.lars`` on the gradients of the rest.

    With weights w of a layer (a leaf), its gradient g where they are kept, decay b and
    trust coefficient c, a step is

        v  <-  momentum v - learning_rate c |w| / |g + b w| (g + b w);   w  <-  w + v

    where a layer without weights, or without a gradient, has the factor 1 for c |w| /
    |g + b w|. That is Optax's; the paper has |g| + b |w| below the fraction bar.

    For large batches the authors take c = 0.001, momentum 0.9, decay 5e-4, and rates
    far above SGD's: the rate of a layer is c |w| / |g| times this one.

    Args:
      learning_rate: of all layers.
      weight_decay: b.
      trust_coefficient: c.
      momentum: of v.
      nesterov: whether it is Nesterov's.

    Returns:
      A transformation that takes `extra_arguments`' ``project``; without it, all
      gradients count.

    References:
      You, Gitman and Ginsburg, *Large Batch Training of Convolutional Networks*,
      arXiv 1708.03888.

    Example:
      >>> import jax.numpy as jnp
      >>> layer = {"kernel": jnp.array([3.0, 4.0])}
      >>> step = lars(1.0, trust_coefficient=0.1, momentum=0.0)
      >>> step.update({"kernel": jnp.array([0.0, 2.0])}, step.init(layer), layer)[0]
      {'kernel': Array([ 0. , -0.5], dtype=float32)}
    """
    inner = optax.lars(
        learning_rate,
        weight_decay=weight_decay,
        trust_coefficient=trust_coefficient,
        momentum=momentum,
        nesterov=nesterov,
    )

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        project: Callable[[PyTree], PyTree] = lambda tree: tree,
        **_: Any,
    ) -> tuple[PyTree, PyTree]:
        return inner.update(project(updates), state, params)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def clipping(
    norm: ArrayLike, optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Scales every gradient down to a norm, if it is longer, before an optimizer.

    The norm is over the whole model, of the gradient where weights are kept.

    Args:
      norm: the largest Euclidean norm; may be traced.
      optimizer: any Optax transformation, whose state it leaves as it is.

    References:
      Pascanu, Mikolov and Bengio, *On the Difficulty of Training Recurrent Neural
      Networks*, ICML 2013, arXiv 1211.5063, algorithm 1.

    Example:
      >>> import jax.numpy as jnp
      >>> step = clipping(1.0, optax.sgd(0.5))
      >>> step.update({"w": jnp.array([3.0, 4.0])}, step.init(None))[0]
      {'w': Array([-0.3, -0.4], dtype=float32)}
    """
    inner = for_clients(optimizer)

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        project: Callable[[PyTree], PyTree] = lambda tree: tree,
        **extra: Any,
    ) -> tuple[PyTree, PyTree]:
        scale = trees.shrinkage(project(updates), norm)
        shorter = jax.tree.map(lambda g: (g * scale).astype(g.dtype), updates)
        changed: tuple[PyTree, PyTree] = inner.update(
            shorter, state, params, project=project, **extra
        )
        return changed

    return optax.GradientTransformationExtraArgs(inner.init, update)


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

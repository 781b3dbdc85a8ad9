"""Flax linen modules as the pair of pure functions that the engine trains."""

import contextlib
import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import InvalidRngError, LazyInitError, ScopeParamShapeError
from jax.typing import DTypeLike

from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.models.adapters.flags import (
    IN_TRAINING,
    Accepted,
    accepted_flags,
    arranged,
    in_mode,
    named_flags,
    tried_flags,
)
from fedsparsify_jax.models.adapters.model import (
    Augment,
    Model,
    Preprocess,
    checked_outputs,
    prepare,
)
from fedsparsify_jax.models.adapters.precision import lowered, raised
from fedsparsify_jax.types import Key, Variables


def from_linen(
    module: nn.Module,
    input_shape: tuple[int, ...],
    *,
    preprocess: Preprocess | None = None,
    augment: Augment | None = None,
    input_dtype: DTypeLike = jnp.float32,
    compute_dtype: DTypeLike | None = None,
) -> Model:
    """Wraps a Flax linen module.

    The module is called with ``x``, and learns whether it trains under the name that it
    has for that: ``train``, ``training``, ``is_training``, or the inverse,
    ``deterministic`` or ``use_running_average``, as an argument of ``__call__``, also
    one that its ``**kwargs`` hand on, or as an attribute. In an ``nn.Sequential`` every
    layer gets it. ``valid`` is passed to a ``__call__`` that accepts it.

    Randomness comes under the name ``dropout``; collections beside ``params`` (batch
    statistics) may change in training. ``nn.BatchNorm`` knows nothing of padded rows
    unless the module hands it ``valid`` as its mask; `batch_norm.BatchNorm` does.

    Args:
      module: the network, ``[B, ...]`` to outputs ``[B, ...]``.
      input_shape: shape of one example, without the batch axis.
      preprocess: raw inputs to the network's; by default only a conversion to
        ``input_dtype``.
      augment: ``(key, x) -> x`` on raw inputs, in training steps only.
      input_dtype: of the network's inputs; an integer for tokens.
      compute_dtype: of the forward pass and its derivative, ``jnp.bfloat16`` for
        instance; parameters, batch statistics, gradients and outputs stay float32.
        None computes in the dtypes of parameters and inputs.

    Raises:
      InputError: if the module is no unbound linen module, needs an argument of another
        name, or the shape or dtype cannot be. ``init`` raises it for a module without
        parameters, ``apply`` for outputs that are not one array ``[B, ...]``.

    Example:
      >>> model = from_linen(nn.Dense(2), (3,))
      >>> variables = model.init(jax.random.key(0))
      >>> outputs, changed = model.apply(variables, jnp.ones((5, 3), jnp.uint8))
      >>> outputs.shape, changed
      ((5, 2), {})
    """
    owner = _checked_module(module)
    # Initialised without the forward pass, which on a brain volume is most of the work.
    example = _example(input_shape, input_dtype)
    forward = _forward(module, owner, example)

    def init(key: Key) -> Variables:
        try:
            variables = forward("lazy_init", key, example)
        except LazyInitError:  # parameters that depend on the inputs
            variables = forward("init", key, jnp.zeros(example.shape, example.dtype))
        if not jax.tree.leaves(variables.get("params")):
            raise InputError(f"{owner} has no parameters: there is nothing to train")
        return dict(variables)

    def apply(
        variables: Variables,
        x: jax.Array,
        *,
        train: bool = False,
        key: Key | None = None,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, Variables]:
        rows = x
        x, key = prepare(
            x,
            key,
            train=train,
            preprocess=preprocess,
            augment=augment,
            dtype=input_dtype,
        )
        variables, x = lowered(variables, x, compute_dtype)
        # Batch statistics change in training only.
        mutable = [name for name in variables if name != "params"] if train else []
        rngs = None if key is None else {"dropout": key}
        with _explained(owner, example.shape[1:], x, key):
            outputs, changed = forward(
                "apply",
                variables,
                x,
                rngs=rngs,
                mutable=mutable,
                train=train,
                valid=valid,
            )
        outputs = checked_outputs(outputs, rows, owner)
        return raised(outputs, compute_dtype), raised(dict(changed), compute_dtype)

    sequential = getattr(module, "sequential", False)
    model = Model(init=init, apply=apply, sequential=sequential)
    parts = [
        from_linen(
            part,
            input_shape,
            preprocess=preprocess,
            augment=augment,
            input_dtype=input_dtype,
            compute_dtype=compute_dtype,
        )
        for part in _smaller(module)
    ]
    return model._replace(parts=(*parts, model)) if parts else model


def _smaller(module: Any) -> tuple[nn.Module, ...]:
    """Returns the modules of the first blocks of one that offers them."""
    offer = getattr(module, "first_blocks", None)
    return tuple(offer()) if callable(offer) else ()


def _checked_module(module: Any) -> str:
    """Returns the name of a module for messages, if it can be wrapped."""
    if isinstance(module, type) and issubclass(module, nn.Module):
        name = module.__name__
        raise InputError(f"module is the class {name}: pass an instance, {name}(...)")
    if not isinstance(module, nn.Module):
        raise InputError(
            f"module is {shown(module)}: it must be a flax.linen.Module; "
            "models.from_nnx takes NNX modules, models.from_functions plain functions"
        )
    name = type(module).__name__
    if module.scope is not None:
        raise InputError(
            f"module {name} is bound to variables: pass module.unbind()[0], or the "
            f"module as {name}(...) makes it"
        )
    if not callable(module):
        raise InputError(f"module {name} has no __call__: define it, from x to outputs")
    return f"module {name}"


def _example(input_shape: Any, input_dtype: Any) -> jax.ShapeDtypeStruct:
    """Describes a batch of one example."""
    try:
        shape = tuple(operator.index(size) for size in input_shape)
    except TypeError:
        shape = (0,)
    if any(size < 1 for size in shape):
        raise InputError(
            f"input_shape is {shown(input_shape)}: it must be the shape of one "
            "example, without the batch axis, such as (28, 28)"
        )
    try:
        return jax.ShapeDtypeStruct((1, *shape), jnp.dtype(input_dtype))
    except TypeError as error:
        raise InputError(
            f"input_dtype is {shown(input_dtype)}: it must be a dtype such as "
            "jnp.float32, or jnp.int32 for tokens"
        ) from error


def _forward(
    module: nn.Module, owner: str, example: jax.ShapeDtypeStruct
) -> Callable[..., Any]:
    """Builds ``(method, source, x, train, valid, **options) -> result`` of a module.

    The method is Flax's ``init`` or ``lazy_init``, whose source is a key, or ``apply``,
    whose source are the variables. The module gets the flags that it takes.
    """
    accepted = accepted_flags(module.__call__, owner)
    attributes = _flags_in_attributes(module, accepted)
    parameters = inspect.signature(module.__call__).parameters
    # Flax refuses a flag that is both an attribute and an argument.
    twice = {n for n in attributes & accepted.names if parameters[n].default is None}
    accepted = accepted._replace(names=accepted.names - twice)

    def run(
        accepted: Accepted,
        method: str,
        source: Any,
        x: Any,
        *,
        train: bool = False,
        valid: jax.Array | None = None,
        **options: Any,
    ) -> Any:
        updates: dict[str, Any] = in_mode(attributes, train)
        copy = module.clone(**updates) if updates else module
        flags = accepted.values(train, valid=valid)
        inputs, flags = arranged(module.__call__, x, **flags)
        with nn.intercept_methods(_hand_on(train, valid)):
            return getattr(copy, method)(source, *inputs, **options, **flags)

    def attempt(flags: Mapping[str, Any]) -> Any:
        chosen = Accepted(frozenset(flags))
        return jax.eval_shape(
            functools.partial(run, chosen, "init"), jax.random.key(0), example
        )

    if not isinstance(module, nn.Sequential):  # whose layers get the flags one by one
        accepted = tried_flags(attempt, accepted, owner, valid=None)
    return functools.partial(run, accepted)


def _flags_in_attributes(module: nn.Module, accepted: Accepted) -> frozenset[str]:
    """Names the attributes of a module that say whether it trains.

    One that is None, as in ``nn.Dropout``, leaves this to the call.
    """
    values = {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name in IN_TRAINING
    }
    return frozenset(
        name
        for name, value in values.items()
        if isinstance(value, bool) or (value is None and name not in accepted.names)
    )


def _hand_on(train: bool, valid: jax.Array | None) -> Callable[..., Any]:
    """Builds the interceptor that gives flags to all layers of an ``nn.Sequential``.

    By itself that passes arguments to its first layer only: the others would stay in
    the mode of their defaults.
    """
    callers: list[nn.Module] = []

    def intercept(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if (
            context.method_name == "__call__"
            and callers
            and isinstance(callers[-1], nn.Sequential)
        ):
            flags = _missing(module, args, kwargs).values(train, valid=valid)
            args, kwargs = arranged(module.__call__, *args, **flags, **kwargs)
        callers.append(module)
        try:
            return next_call(*args, **kwargs)
        finally:
            callers.pop()

    return intercept


def _missing(module: nn.Module, args: Any, kwargs: Any) -> Accepted:
    """Names the flags of a layer that neither its call nor its attributes have."""
    names = named_flags(module.__call__, "valid")
    signature = inspect.signature(module.__call__)
    names -= {*signature.bind_partial(*args, **kwargs).arguments}
    fixed = {name for name in names if isinstance(getattr(module, name, None), bool)}
    return Accepted(names - fixed)


@contextlib.contextmanager
def _explained(
    owner: str, shape: tuple[int, ...], x: Any, key: Key | None
) -> Iterator[None]:
    """Says in the library's words what two errors of Flax mean.

    Args:
      owner: the module, for messages.
      shape: of the example that it was initialised with.
      x: the network's inputs ``[B, ...]``.
      key: the randomness that it gets.
    """
    try:
        yield
    except ScopeParamShapeError as error:
        if np.shape(x)[1:] == shape:
            raise
        raise InputError(
            f"{owner} was initialised for examples of shape {shape} (input_shape, "
            f"without the batch axis) and got inputs of shape {np.shape(x)}: {error}"
        ) from error
    except InvalidRngError as error:
        raise InputError(
            f"{owner} draws random numbers: training needs a key, and evaluation must "
            "not draw any"
            if key is None
            else f"{owner} draws random numbers under a name other than 'dropout', the "
            f"only one that has a key: {error}"
        ) from error

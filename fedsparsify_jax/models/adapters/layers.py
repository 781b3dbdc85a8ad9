"""The layers inside a Flax network: their order, and replacements for some of them.

Flax calls every method of every module through its interceptors. That shows which
layers a forward pass goes through, and lets a smaller one answer in the place of one
of them, without a second definition of the network.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.models.ops.batch_norm import BatchNorm
from fedsparsify_jax.types import ApplyFn, Variables

LayerCall = Callable[[jax.Array], jax.Array]
"""Inputs ``[B, ..., in]`` to outputs ``[B, ..., out]``."""
Replacement = Callable[[Mapping[str, jax.Array], jax.Array, LayerCall], jax.Array]
"""``(parameters of the layer, inputs, the layer as it is) -> outputs``; the layer as it
is takes its width from the parameters."""

KINDS = ("Conv", "Dense", "BatchNorm", "Dropout", "Other")


class Layer(NamedTuple):
    """One layer, as a forward pass met it."""

    path: tuple[str, ...]  # of its parameters in the collection, ("Dense_0",)
    kind: str  # one of KINDS
    inputs: int  # length of the last axis of its inputs
    outputs: int  # of its outputs
    places: int = 1  # of space, at which its weights are applied


def layers_of(apply_fn: ApplyFn, variables: Variables, x: Any) -> tuple[Layer, ...]:
    """Lists the layers with parameters, and dropouts, in the order of a training step.

    Nothing is computed. The list is empty for a model that is no linen network.

    Args:
      apply_fn: the model's forward pass.
      variables: its variables, or their shapes.
      x: raw inputs ``[B, ...]``, or their shape and dtype.

    Example:
      >>> from fedsparsify_jax import models
      >>> model = models.build("mlp", input_shape=(4,), num_classes=2, hidden=(3,))
      >>> variables = model.init(jax.random.key(0))
      >>> for layer in layers_of(model.apply, variables, jnp.zeros((1, 4))):
      ...     print(*layer)
      ('Dense_0',) Dense 4 3 1
      ('Dense_1',) Dense 3 2 1
    """
    layers: list[Layer] = []

    def note(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        answer = next_call(*args, **kwargs)
        module = context.module
        kind = _kind(module)
        if context.method_name == "__call__" and kind and args:
            layer = Layer(
                path=tuple(module.path),
                kind=kind,
                inputs=args[0].shape[-1],
                outputs=answer.shape[-1],
                places=math.prod(answer.shape[1:-1]),
            )
            layers.append(layer)
        return answer

    def forward(variables: Variables, x: jax.Array) -> Any:
        with nn.intercept_methods(note):
            return apply_fn(variables, x, train=True, key=jax.random.key(0))

    jax.eval_shape(forward, variables, x)
    return tuple(layers)


def features_of(
    apply_fn: ApplyFn, variables: Variables, x: Any
) -> tuple[tuple[str, ...], ApplyFn]:
    """Returns the path of the last layer, and the forward pass up to its inputs.

    Args:
      apply_fn: the model's forward pass, which must end with a dense layer.
      variables: its variables, or their shapes.
      x: raw inputs ``[B, ...]``, or their shape and dtype.

    Raises:
      InputError: if it ends otherwise, or is no linen network.

    Example:
      >>> from fedsparsify_jax import models
      >>> model = models.build("mlp", input_shape=(4,), num_classes=2, hidden=(3,))
      >>> variables = model.init(jax.random.key(0))
      >>> path, features = features_of(model.apply, variables, jnp.zeros((1, 4)))
      >>> path, features(variables, jnp.zeros((5, 4)))[0].shape
      (('Dense_1',), (5, 3))
    """
    layers = [n for n in layers_of(apply_fn, variables, x) if n.kind != "Dropout"]
    last = layers[-1] if layers else None
    if last is not None and last.kind == "Dense":
        features = replaced(apply_fn, {last.path: lambda params, x, call: x})
        answers = jax.eval_shape(lambda v, x: apply_fn(v, x)[0], variables, x)
        inputs = jax.eval_shape(lambda v, x: features(v, x)[0], variables, x)
        if (answers.shape[1:], inputs.shape[1:]) == ((last.outputs,), (last.inputs,)):
            return last.path, features
    raise InputError("the network does not end with a dense layer of its features")


def replaced(
    apply_fn: ApplyFn,
    replacements: Mapping[tuple[str, ...], Replacement],
    channels: Mapping[tuple[str, ...], jax.Array] | None = None,
) -> ApplyFn:
    """Returns a forward pass in which other functions answer for some of its layers.

    Args:
      apply_fn: the model's forward pass.
      replacements: path of a layer, see `Layer`, to what answers for it.
      channels: path of a batch norm to the channels ``[n]`` that its inputs and
        parameters have; its running statistics are those of all channels, and move as
        if the others were zero.

    Example:
      >>> from fedsparsify_jax import models
      >>> model = models.build("mlp", input_shape=(4,), num_classes=2, hidden=(3,))
      >>> variables = model.init(jax.random.key(0))
      >>> silence = lambda params, x, call: 0 * call(x)
      >>> silent = replaced(model.apply, {("Dense_1",): silence})
      >>> silent(variables, jnp.ones((1, 4)))[0]
      Array([[0., 0.]], dtype=float32)
    """

    def answer(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module, path = context.module, tuple(context.module.path)
        if context.method_name != "__call__":
            return next_call(*args, **kwargs)
        if channels and path in channels:
            return _norm_of(module, channels[path], *args, **kwargs)
        other = replacements.get(path)
        if other is None:
            return next_call(*args, **kwargs)
        if isinstance(module, nn.Dropout):
            return other({}, args[0], lambda x: next_call(x, *args[1:], **kwargs))
        # A smaller kernel makes a narrower layer.
        params = module.variables["params"]

        def call(x: jax.Array) -> jax.Array:
            layer = module.clone(parent=None, features=params["kernel"].shape[-1])
            return jnp.asarray(layer.apply({"params": params}, x))

        return other(params, args[0], call)

    def apply(
        variables: Variables, x: jax.Array, **flags: Any
    ) -> tuple[jax.Array, Variables]:
        with nn.intercept_methods(answer):
            return apply_fn(variables, x, **flags)

    return apply


def _norm_of(
    module: nn.Module, channels: jax.Array, x: jax.Array, *args: Any, **flags: Any
) -> jax.Array:
    """Runs a batch norm on some of its channels, with the statistics of all of them."""
    layer, name = module.clone(parent=None), "batch_stats"
    trained, running = module.variables["params"], module.variables[name]

    def run(x: jax.Array, params: Any, statistics: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, name: statistics}
        y, changed = layer.apply(variables, x, *args, mutable=[name], **flags)
        return y, changed[name]

    picked = {key: jnp.take(v, channels, mode="clip") for key, v in running.items()}
    y, moved = run(x, trained, picked)
    total = running["mean"].shape[0]
    silent = jnp.zeros((x.shape[0],) + (1,) * (x.ndim - 2) + (total,), x.dtype)
    _, decayed = run(silent, {key: jnp.ones(total) for key in trained}, running)
    if module.is_mutable_collection(name):
        for key in running:
            new = decayed[key].at[channels].set(moved[key], mode="drop")
            module.put_variable(name, key, new)
    return y


def _kind(module: nn.Module) -> str:
    """Names the kind of a module; "" if it is made of others or has no parameters."""
    plain = getattr(module, "dtype", None) is None
    if isinstance(module, nn.Dense) and plain and module.dot_general is None:
        return "Dense"
    if isinstance(module, nn.Conv) and plain and module.feature_group_count == 1:
        return "Conv"
    if isinstance(module, nn.Dropout):
        return "Dropout"
    if isinstance(module, BatchNorm) or _is_usual(module):
        return "BatchNorm"
    params = module.variables.get("params", {})
    leaves = [value for value in params.values() if not isinstance(value, Mapping)]
    return "Other" if leaves else ""


def _is_usual(module: nn.Module) -> bool:
    """Tells whether a module is Flax's batch norm, as it is by default.

    That is with scale and shift, over the last axis, and by one device's statistics.
    """
    return (
        isinstance(module, nn.BatchNorm)
        and module.axis == -1
        and module.dtype is None
        and module.axis_name is None
        and module.use_scale
        and module.use_bias
    )

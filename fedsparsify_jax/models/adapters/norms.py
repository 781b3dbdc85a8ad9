"""Finds the norm that reads the channels of a layer, from a Flax network's program.

The outputs of layers and the inputs of norms are marked while the network is traced;
then the marks are followed through what acts on every channel alone (activations,
pooling, changes of dtype), but not through sums with other values, as in a residual
network, where a channel of zeros does not stay one.
"""

from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from fedsparsify_jax import trees
from fedsparsify_jax.models.adapters.calls import called
from fedsparsify_jax.types import ApplyFn, Variables

_GIVEN, _READ = "given by ", "read by "
_BY_CHANNEL = {
    "abs",
    "add",
    "convert_element_type",
    "copy",
    "div",
    "erf",
    "exp",
    "expm1",
    "integer_pow",
    "log1p",
    "logistic",
    "max",
    "min",
    "mul",
    "name",
    "neg",
    "reduce_precision",
    "reduce_window_max",
    "reduce_window_sum",
    "select_n",
    "slice",
    "square",
    "stop_gradient",
    "sub",
    "tanh",
}

Owners = dict[Any, str]
"""Variable of a program to the layer whose channels are its last axis."""


def norms_behind(apply_fn: ApplyFn, variables: Variables, x: Any) -> dict[str, str]:
    """Returns the path of a layer to that of the norm that reads its channels.

    A norm is a module with vectors for parameters alone. There is none for a model
    that is no linen network.

    Args:
      apply_fn: the model's forward pass.
      variables: its variables, or their shapes.
      x: raw inputs ``[B, ...]``, or their shape and dtype.

    Example:
      >>> from fedsparsify_jax import models
      >>> model = models.build("vgg16_bn", input_shape=(32, 32, 3), num_classes=2)
      >>> x = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(model.init, jax.random.key(0))
      >>> norms_behind(model.apply, variables, x)["params/Conv_0"]
      'params/BatchNorm_0'
    """
    dimensions: dict[str, set[int]] = {}
    for name, leaf in trees.named_leaves(variables):
        dimensions.setdefault(name.rpartition("/")[0], set()).add(len(leaf.shape))

    def mark(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(("params", *context.module.path))
        sizes = dimensions.get(path)
        if context.method_name != "__call__" or not (sizes and args):
            return next_call(*args, **kwargs)
        if sizes == {1}:
            args = (checkpoint_name(args[0], _READ + path), *args[1:])
            return next_call(*args, **kwargs)
        return checkpoint_name(next_call(*args, **kwargs), _GIVEN + path)

    def forward(variables: Variables, x: jax.Array) -> Any:
        with nn.intercept_methods(mark):
            return apply_fn(variables, x)

    norms: dict[str, str] = {}
    _follow(jax.make_jaxpr(forward)(variables, x).jaxpr, {}, norms)
    return norms


def _follow(jaxpr: Jaxpr, owners: Owners, norms: dict[str, str]) -> list[str | None]:
    """Returns whose channels the results are; adds the pairs that it meets."""
    for equation in jaxpr.eqns:
        inner = called(equation)
        if inner is not None:
            pairs = zip(inner.invars, equation.invars, strict=True)
            own = [(inside, _owner(atom, owners)) for inside, atom in pairs]
            results = _follow(inner, {v: o for v, o in own if o}, norms)
        else:
            results = [_result(equation, owners, norms)] * len(equation.outvars)
        for variable, owner in zip(equation.outvars, results, strict=True):
            if owner is not None:
                owners[variable] = owner
    return [_owner(atom, owners) for atom in jaxpr.outvars]


def _result(equation: JaxprEqn, owners: Owners, norms: dict[str, str]) -> str | None:
    """Returns whose channels an operation leaves, if it acts on each of them alone."""
    inputs: list[Any] = [a for a in equation.invars if not isinstance(a, Literal)]
    outputs: list[Any] = equation.outvars
    mark = equation.params.get("name", "")
    if equation.primitive.name == "name" and mark.startswith(_GIVEN):
        return mark.removeprefix(_GIVEN)
    sources = {_owner(atom, owners) for atom in inputs}
    if equation.primitive.name not in _BY_CHANNEL or len(sources) != 1:
        return None
    (owner,) = sources
    if owner is not None and mark.startswith(_READ):
        norms[owner] = mark.removeprefix(_READ)
    width = inputs[0].aval.shape[-1:]
    return owner if outputs[0].aval.shape[-1:] == width else None


def _owner(atom: Any, owners: Owners) -> str | None:
    return None if isinstance(atom, Literal) else owners.get(atom)

"""The layers of a network in a row, for methods that cut whole units out of it."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.models.adapters.layers import Layer, layers_of, replaced
from fedsparsify_jax.training.compact.structure import Path, Stage, entry, stages_of
from fedsparsify_jax.types import ApplyFn, Masks, Variables

REFUSAL = (
    "this method cuts units out of a network whose dense and convolutional layers feed "
    "one another in a row, such as mlp, cnn and vgg16_bn"
)


def chain_of(apply_fn: ApplyFn, variables: Variables, x: Any) -> tuple[Stage, ...]:
    """Returns the layers with weights, each with its norm; nothing is computed.

    Args:
      apply_fn: the model's forward pass.
      variables: its variables, or their shapes.
      x: raw inputs ``[B, ...]``, or their shape and dtype.

    Raises:
      ValueError: if something leads around a layer, or has no units of its own.

    Example:
      >>> from fedsparsify_jax import models
      >>> model = models.build("mlp", input_shape=(4,), num_classes=2, hidden=(3,))
      >>> variables = model.init(jax.random.key(0))
      >>> stages = chain_of(model.apply, variables, jnp.ones((1, 4)))
      >>> [stage.outputs for stage in stages]
      [3, 2]
    """
    layers = layers_of(apply_fn, variables, x)
    stages = stages_of(_as_norm(layer, variables) for layer in layers)
    pairs = itertools.pairwise(stages)
    if not stages or any(b.inputs % a.outputs for a, b in pairs):
        raise ValueError(REFUSAL)
    paths = ["/".join(p) for stage in stages for p in (stage.path, stage.norm) if p]
    for name, _ in trees.named_leaves(variables):
        if name.partition("/")[2].rpartition("/")[0] not in paths:
            raise ValueError(f"{REFUSAL}; {name} is of none")
    for stage in stages:
        if _leads_around(apply_fn, stage.path, variables, x):
            raise ValueError(
                f"{REFUSAL}; something leads around {'/'.join(stage.path)}"
            )
    return stages


def _as_norm(layer: Layer, variables: Variables) -> Layer:
    """Takes a layer with running statistics of its channels for a batch norm."""
    try:
        statistics = jax.tree.leaves(entry(variables["batch_stats"], layer.path))
    except KeyError:
        return layer
    if all(leaf.shape == (layer.outputs,) for leaf in statistics):
        return layer._replace(kind="BatchNorm")
    return layer


def _leads_around(apply_fn: ApplyFn, path: Path, variables: Variables, x: Any) -> bool:
    """Returns whether the outputs depend on the inputs other than through a layer."""

    def silent(params: Any, x: jax.Array, call: Callable[..., jax.Array]) -> jax.Array:
        shape = jax.eval_shape(call, x)
        return jnp.zeros(shape.shape, shape.dtype)

    without = replaced(apply_fn, {path: silent})
    traced = jax.make_jaxpr(lambda x, v: without(v, x)[0])(x, variables).jaxpr
    needed = set(map(id, traced.outvars))
    for equation in reversed(traced.eqns):
        if needed & set(map(id, equation.outvars)):
            needed |= set(map(id, equation.invars))
    return id(traced.invars[0]) in needed


def unit_masks(
    stages: tuple[Stage, ...], variables: Variables, kept: list[jax.Array]
) -> Masks:
    """Returns the masks of the network with some units of every layer.

    Args:
      stages: of `chain_of`.
      variables: of the network, or their shapes.
      kept: of every stage the units, bool ``[outputs]``.

    Example:
      >>> stages = (Stage(("a",), "Dense", 2, 2), Stage(("b",), "Dense", 2, 1))
      >>> a, b = {"kernel": jnp.ones((2, 2))}, {"kernel": jnp.ones((2, 1))}
      >>> kept = [jnp.array([True, False]), jnp.array([True])]
      >>> masks = unit_masks(stages, {"params": {"a": a, "b": b}}, kept)["params"]
      >>> masks["a"]["kernel"].tolist(), masks["b"]["kernel"].tolist()
      ([[True, False], [True, False]], [[True], [False]])
    """
    by_layer: dict[str, tuple[jax.Array, jax.Array]] = {}
    inputs = jnp.ones(stages[0].inputs, bool)
    for stage, outputs in zip(stages, kept, strict=True):
        # A flattened image has a row for every place of a channel.
        inputs = jnp.tile(inputs, stage.inputs // inputs.shape[0])
        for path in (stage.path, stage.norm):
            if path:
                by_layer["/".join(path)] = (inputs, outputs)
        inputs = outputs

    def mask(name: str, leaf: jax.Array) -> jax.Array:
        inputs, outputs = by_layer[name.partition("/")[2].rpartition("/")[0]]
        units = outputs if leaf.ndim == 1 else inputs[:, None] & outputs[None]
        return jnp.broadcast_to(units, leaf.shape)

    masks: Masks = trees.map_with_name(mask, variables)
    return masks

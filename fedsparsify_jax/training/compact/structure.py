"""The chain of layers, and the units of a masked network that can matter.

A *stage* is a dense or convolutional layer with the batch norm that follows it. In a
sequential network every stage reads only the one before it, through functions that
act on each unit alone and map zero to zero (ReLU, pooling, dropout, flattening).
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedsparsify_jax.models.adapters.layers import Layer
from fedsparsify_jax.types import Masks

Path = tuple[str, ...]


class Stage(NamedTuple):
    """A layer with weights and what follows it up to the next one."""

    path: Path  # of its parameters
    kind: str  # "Dense" or "Conv"
    inputs: int  # last axis of what it reads
    outputs: int  # units or channels it gives
    norm: Path | None = None  # the batch norm behind it
    dropouts: tuple[Path, ...] = ()  # the dropouts behind it
    places: int = 1  # of space, at which its weights are applied


def stages_of(layers: Iterable[Layer]) -> tuple[Stage, ...]:
    """Returns the stages of a sequential network; ``()`` if it has other layers.

    >>> dense, drop = Layer(("a",), "Dense", 4, 3), Layer(("b",), "Dropout", 3, 3)
    >>> [(stage.path, stage.dropouts) for stage in stages_of([dense, drop])]
    [(('a',), (('b',),))]
    """
    stages: list[Stage] = []
    for layer in layers:
        if layer.kind in ("Dense", "Conv"):
            stage = Stage(layer.path, layer.kind, layer.inputs, layer.outputs)
            stages.append(stage._replace(places=layer.places))
        elif layer.kind == "Other" or not stages:
            return ()
        elif layer.kind == "BatchNorm":
            stages[-1] = stages[-1]._replace(norm=layer.path)
        else:
            more = (*stages[-1].dropouts, layer.path)
            stages[-1] = stages[-1]._replace(dropouts=more)
    paths = [stage.path for stage in stages]
    # A layer that is used twice, or is the whole network.
    if len(set(paths)) < len(paths) or () in paths:
        return ()
    return tuple(stages)


def entry(tree: Any, path: Path) -> dict[str, Any]:
    """Returns the parameters of a layer, by its path."""
    for name in path:
        tree = tree[name]
    return tree


def alive_units(stages: tuple[Stage, ...], masks: Masks) -> tuple[jax.Array, ...]:
    """Finds the units that can change an output or be trained, edge by edge.

    A unit is alive if surviving weights lead from it to an output, and a surviving
    bias or surviving weights from living inputs lead to it. All others give zero or are
    read by nobody: their weights have no gradient. In front of a norm a channel that
    is not always zero is alive even if nobody reads it, for its running statistics
    move; one that is always zero is alive if it is shifted and read.

    Args:
      stages: of a sequential network.
      masks: of its variables.

    Returns:
      Bool ``[inputs of stage 0]``, then ``[outputs]`` of every stage; those of the last
      are all True.

    Example:
      >>> stages = (Stage(("a",), "Dense", 2, 2), Stage(("b",), "Dense", 2, 1))
      >>> first = {"kernel": jnp.array([[True, False], [False, True]])}
      >>> second = {"kernel": jnp.array([[True], [False]])}
      >>> alive = alive_units(stages, {"params": {"a": first, "b": second}})
      >>> [units.tolist() for units in alive]
      [[True, False], [True, False], [True]]
    """
    params = masks["params"]
    matrices = [unit_mask(entry(params, stage.path)["kernel"]) for stage in stages]
    fed = [jnp.ones(stages[0].inputs, bool)]
    counted = [jnp.zeros(stages[0].inputs, bool)]  # in running statistics
    for stage, matrix in zip(stages, matrices, strict=True):
        some = jnp.any(matrix & _as_inputs(fed[-1], matrix)[:, None], axis=0)
        bias = entry(params, stage.path).get("bias")
        some = some if bias is None else some | bias
        counted.append(some & (stage.norm is not None))
        shifted = entry(params, stage.norm)["bias"] if stage.norm else False
        fed.append(some | shifted)
    alive = [jnp.ones(stages[-1].outputs, bool)]
    for number in reversed(range(len(stages))):
        some = jnp.any(matrices[number] & alive[0][None], axis=1)
        # A flattened image has a row for every place of a channel.
        read = jnp.any(some.reshape(-1, fed[number].shape[0]), axis=0)
        alive.insert(0, counted[number] | (fed[number] & read))
    return tuple(alive)


def unit_mask(kernel: jax.Array) -> jax.Array:
    """Returns a kernel's mask ``[*window, I, O]`` as ``[I, O]``, any of the window.

    >>> unit_mask(jnp.array([[[True, False]], [[False, False]]])).tolist()
    [[True, False]]
    """
    return kernel.any(axis=tuple(range(kernel.ndim - 2)))


def _as_inputs(units: jax.Array, matrix: jax.Array) -> jax.Array:
    """Units ``[U]`` as inputs ``[places * U]`` of a flattening layer."""
    return jnp.tile(units, matrix.shape[0] // units.shape[0])

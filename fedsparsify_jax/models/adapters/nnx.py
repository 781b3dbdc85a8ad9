"""Flax NNX modules as the pair of pure functions that the engine trains."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from fedsparsify_jax.models.adapters.linen import (
    Augment,
    Model,
    Preprocess,
    accepted_flags,
    prepare,
)
from fedsparsify_jax.types import Key, Variables

Path = tuple[Any, ...]

_KEY, _COUNT = "key of a stream", "count of a stream"
_KINDS: dict[type, str] = {
    nnx.Param: "params",
    nnx.BatchStat: "batch_stats",
    nnx.RngKey: _KEY,
    nnx.RngCount: _COUNT,
}


def from_nnx(
    module_factory: Callable[[nnx.Rngs], nnx.Module],
    *,
    preprocess: Preprocess | None = None,
    augment: Augment | None = None,
) -> Model:
    """Wraps a Flax NNX module.

    Its ``nnx.Param`` become the collection ``params`` and its ``nnx.BatchStat``
    ``batch_stats``, nested dicts with string keys. ``train`` puts the module into
    training or evaluation mode (``module.train()``, ``module.eval()``), and is passed
    on, like ``valid``, if ``__call__`` names it. All random streams of the module
    start anew from the key of the step.

    Args:
      module_factory: ``nnx.Rngs -> module``; traced, so it must not have side effects.
      preprocess: raw inputs to the network's; by default a conversion to
        float32.
      augment: ``(key, x) -> x`` on raw inputs, in training steps only.

    Raises:
      ValueError: if the module has no parameters, or variables of another kind.

    Example:
      >>> model = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
      >>> variables = model.init(jax.random.key(0))
      >>> jax.tree.map(jax.numpy.shape, variables)
      {'params': {'bias': (2,), 'kernel': (3, 2)}}
      >>> outputs, changed = model.apply(variables, jax.numpy.ones((5, 3)))
      >>> outputs.shape, changed
      ((5, 2), {})
    """
    # The structure alone; every call fills it with the caller's arrays.
    graph, structure = nnx.split(nnx.eval_shape(lambda: module_factory(nnx.Rngs(0))))
    kinds = {path: _kind(path, leaf) for path, leaf in nnx.to_flat_state(structure)}
    if "params" not in kinds.values():
        raise ValueError("the module has no nnx.Param: there is nothing to train")

    def collect(state: nnx.State, names: set[str]) -> Variables:
        variables: Variables = {}
        for path, leaf in nnx.to_flat_state(state):
            if kinds.get(path) in names:
                _put(variables, (kinds[path], *path), leaf.get_value())
        return variables

    def fill(variables: Variables, key: Key | None) -> nnx.Module:
        leaves = []
        for number, (path, leaf) in enumerate(nnx.to_flat_state(structure)):
            # Random streams start anew from the key, all else is the caller's.
            if kinds[path] == _KEY:
                stream = jax.random.key(0) if key is None else key
                value = jax.random.fold_in(stream, number)
            elif kinds[path] == _COUNT:
                value = jnp.zeros(leaf.shape, leaf.dtype)
            else:
                value = _get(variables, (kinds[path], *path))
            leaves.append((path, leaf.replace(value)))
        return nnx.merge(graph, nnx.from_flat_state(leaves))

    def init(key: Key) -> Variables:
        state = nnx.state(module_factory(nnx.Rngs(key)))
        return collect(state, {"params", "batch_stats"})

    def apply(
        variables: Variables,
        x: jax.Array,
        *,
        train: bool = False,
        key: Key | None = None,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, Variables]:
        if train and key is None and _KEY in kinds.values():
            raise ValueError("the module draws random numbers: training needs a key")
        x, key = prepare(x, key, train=train, preprocess=preprocess, augment=augment)
        module: Any = fill(variables, key)
        if train:
            module.train()
        else:
            module.eval()
        outputs = module(x, **accepted_flags(module.__call__, train=train, valid=valid))
        changed = collect(nnx.state(module), {"batch_stats"}) if train else {}
        return outputs, changed

    return Model(init=init, apply=apply)


def _kind(path: Path, leaf: Any) -> str:
    """Names the collection of a variable, or its part of a random stream."""
    for kind, name in _KINDS.items():
        if isinstance(leaf, kind):
            return name
    raise ValueError(
        f"variable {'/'.join(map(str, path))} is a {type(leaf).__name__}: only "
        "nnx.Param, nnx.BatchStat and random streams are supported"
    )


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    *parents, last = map(str, path)
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value


def _get(tree: dict[str, Any], path: Path) -> Any:
    return functools.reduce(lambda node, name: node[str(name)], path, tree)

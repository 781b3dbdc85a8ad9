"""The structure of an NNX module: its variables by collection, and its constants."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.models.adapters.flags import IN_TRAINING, in_mode
from fedsparsify_jax.models.adapters.model import described
from fedsparsify_jax.types import Key, Variables

Path = tuple[Any, ...]
Maker = Callable[[nnx.Rngs], nnx.Module]

KEY, COUNT, CONSTANT = "key of a stream", "count of a stream", "constant"
_KINDS: dict[type, str] = {
    nnx.Param: "params",
    nnx.BatchStat: "batch_stats",
    nnx.RngKey: KEY,
    nnx.RngCount: COUNT,
}


class Structure(NamedTuple):
    """A module without its arrays, except for those that never change.

    Attributes:
      module: the module, whose arrays nobody may read.
      graph: what ``nnx.merge`` needs beside the leaves.
      leaves: path and variable, whose arrays nobody may read, or path and constant.
      kinds: path to the collection of a variable, or one of `KEY`, `COUNT`, `CONSTANT`.
    """

    module: nnx.Module
    graph: nnx.GraphDef[nnx.Module]
    leaves: tuple[tuple[Path, Any], ...]
    kinds: dict[Path, str]

    def filled(
        self, variables: Variables, key: Key | None, *, train: bool
    ) -> nnx.Module:
        """Returns the module with these variables, in training or evaluation mode.

        Its random streams start anew from the key.
        """
        leaves = []
        for number, (path, leaf) in enumerate(self.leaves):
            kind = self.kinds[path]
            if kind == CONSTANT:
                leaves.append((path, leaf))
                continue
            if kind == KEY:
                stream = jax.random.key(0) if key is None else key
                value = jax.random.fold_in(stream, number)
            elif kind == COUNT:
                value = jnp.zeros(leaf.shape, leaf.dtype)
            else:
                value = _get(variables, (kind, *path))
            leaves.append((path, leaf.replace(value)))
        module = nnx.merge(self.graph, nnx.from_flat_state(leaves))
        _set_mode(module, train)
        return module

    def evaluate(self, variables: Variables, x: jax.Array, **flags: Any) -> Any:
        """Calls the module in evaluation mode."""
        module: Any = self.filled(variables, None, train=False)
        return module(x, **flags)

    def collected(self, module: nnx.Module, names: set[str]) -> Variables:
        """Returns the variables of some collections, ``{"params": ...}``."""
        variables: Variables = {}
        for path, leaf in nnx.to_flat_state(nnx.state(module)):
            if self.kinds.get(path) in names:
                _put(variables, (self.kinds[path], *path), leaf.get_value())
        return variables

    def check_constants(self, module: nnx.Module) -> None:
        """Raises InputError if a forward pass has changed a constant."""
        constants = {p: leaf for p, leaf in self.leaves if self.kinds[p] == CONSTANT}
        nodes = dict(nnx.iter_graph(module)) if constants else {}
        for path, leaf in constants.items():
            if nodes.get(path) is not leaf:
                raise InputError(
                    f"the forward pass changes the attribute {_name(path)}, a plain "
                    "array: wrap it in nnx.BatchStat, which may change in training"
                )


def maker(module_factory: Any) -> Maker:
    """Returns ``rngs -> module`` for a factory or a class.

    Raises:
      InputError: for anything that cannot be called with ``rngs`` alone.
    """
    name = getattr(module_factory, "__name__", type(module_factory).__name__)
    advice = f"pass a function of rngs, lambda rngs: {name}(..., rngs=rngs)"
    if isinstance(module_factory, nnx.Module):
        raise InputError(f"module_factory is a module, {name}: {advice}")
    linen = isinstance(module_factory, nn.Module) or (
        isinstance(module_factory, type) and issubclass(module_factory, nn.Module)
    )
    if linen or not callable(module_factory):
        raise InputError(
            f"module_factory is {shown(module_factory)}: it must be a function of "
            "nnx.Rngs that returns an nnx.Module; models.from_linen takes linen modules"
        )
    parameters = _arguments(module_factory)
    by_name = "rngs" in parameters
    required = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    others = [n for n in required if n != "rngs"] if by_name else required[1:]
    if others:
        raise InputError(f"module_factory needs {', '.join(others)}: {advice}")

    def make(rngs: nnx.Rngs) -> nnx.Module:
        module = module_factory(rngs=rngs) if by_name else module_factory(rngs)
        if not isinstance(module, nnx.Module):
            raise InputError(
                f"module_factory returned {described(module)}: it must return an "
                "nnx.Module"
            )
        return module

    return make


def _arguments(module_factory: Any) -> dict[str, inspect.Parameter]:
    """Returns the arguments of a factory; those of a class are its ``__init__``'s."""
    if not isinstance(module_factory, type):
        return dict(inspect.signature(module_factory).parameters)
    _, *parameters = inspect.signature(module_factory.__init__).parameters.items()  # type: ignore[misc]
    return dict(parameters)


def structure_of(make: Maker) -> Structure:
    """Finds out the structure of the modules that a factory makes.

    Nothing is computed unless there are constants.

    Raises:
      InputError: for a variable of an unsupported kind, or an array that depends on
        ``rngs`` and is no variable.
    """
    parts: list[Any] = []

    # Not nnx.eval_shape: Flax takes a plain array of a trace for a part of the
    # structure, by which JAX would then look up its cache.
    def trace() -> None:
        module = make(nnx.Rngs(0))
        nodes = [node for _, node in nnx.iter_graph(module)]
        if not any(isinstance(node, jax.Array | np.ndarray) for node in nodes):
            parts.extend(_parts(module))

    jax.eval_shape(trace)
    graph, leaves = parts or _parts(_with_constants(make))
    kinds = {path: _kind(path, leaf) for path, leaf in leaves}
    module = nnx.merge(graph, nnx.from_flat_state(leaves))
    return Structure(module=module, graph=graph, leaves=leaves, kinds=kinds)


def _parts(module: nnx.Module) -> tuple[nnx.GraphDef[nnx.Module], Any]:
    """Splits a module into graph and leaves, without the arrays of its variables."""
    graph, state = nnx.split(module)
    leaves = nnx.to_flat_state(state)
    return graph, tuple((path, _without_array(leaf)) for path, leaf in leaves)


def _with_constants(make: Maker) -> nnx.Module:
    """Makes the module, and checks that plain arrays are the same whatever the key."""
    try:
        module, other = make(nnx.Rngs(0)), make(nnx.Rngs(1))
    except ValueError as error:  # Flax's, for arrays in plain lists
        reason = str(error).partition(" Consider")[0]
        raise InputError(
            f"module_factory failed: {reason} Arrays belong into an nnx.Param, an "
            "nnx.BatchStat, an nnx.List or an nnx.Dict"
        ) from error
    others = dict(nnx.to_flat_state(nnx.state(other)))
    for path, leaf in nnx.to_flat_state(nnx.state(module)):
        if not isinstance(leaf, nnx.Variable) and _bytes(leaf) != _bytes(others[path]):
            raise InputError(
                f"the attribute {_name(path)} is a plain array that depends on rngs: "
                "wrap it in nnx.Param if it is trained, else in nnx.BatchStat"
            )
    return module


def _without_array(leaf: Any) -> Any:
    """Replaces the array of a variable by its shape and dtype."""
    if not isinstance(leaf, nnx.Variable):
        return leaf
    value = leaf.get_value()
    return leaf.replace(jax.ShapeDtypeStruct(value.shape, value.dtype))


def _bytes(array: Any) -> bytes:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array).tobytes()


def _kind(path: Path, leaf: Any) -> str:
    """Names the collection of a variable, or what else a leaf is."""
    if not isinstance(leaf, nnx.Variable):
        return CONSTANT
    for kind, name in _KINDS.items():
        if isinstance(leaf, kind):
            return name
    raise InputError(
        f"variable {_name(path)} is a {type(leaf).__name__}: only nnx.Param, "
        "nnx.BatchStat and random streams are supported"
    )


def _set_mode(module: nnx.Module, train: bool) -> None:
    """Puts a module and all inside it into training or evaluation mode."""
    # An attribute may have the name of the method.
    (type(module).train if train else type(module).eval)(module)
    for _, part in nnx.iter_modules(module):
        flags = [name for name in IN_TRAINING if isinstance(vars(part).get(name), bool)]
        for name, value in in_mode(flags, train).items():
            setattr(part, name, value)


def _name(path: Path) -> str:
    return "/".join(map(str, path))


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    *parents, last = map(str, path)
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value


def _get(tree: dict[str, Any], path: Path) -> Any:
    return functools.reduce(lambda node, name: node[str(name)], path, tree)

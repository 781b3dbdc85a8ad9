"""From a model's forward pass to a `Graph`, by reading what JAX traces of it.

Whatever depends on the weights alone is computed here; an operation on examples becomes
a node. Only operations of dense and convolutional networks are known; any other ends
in an `UnknownOperationError` that names it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from fedsparsify_jax import trees
from fedsparsify_jax.deploy.graph.nodes import Graph, Node, pruned
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import ApplyFn, Variables

BATCH = 13
"""Length of the batch axis while tracing: whatever keeps it keeps any other."""


class UnknownOperationError(InputError):
    """A model that does something a graph has no node for."""


class _Known(NamedTuple):
    """A value that depends on no example."""

    value: np.ndarray
    name: str = ""  # of the variable that it is


class _Traced(NamedTuple):
    """A value that depends on the examples: the result of a node."""

    number: int
    shape: tuple[int, ...]  # with the batch axis


def trace(
    apply_fn: ApplyFn, values: Variables, shape: Sequence[int], dtype: Any
) -> Graph:
    """Returns the graph of a model's forward pass.

    Args:
      apply_fn: the model's forward pass; convolutions must be XLA's own.
      values: its variables.
      shape: of one example.
      dtype: of the raw inputs.

    Raises:
      UnknownOperationError: for an operation that no node stands for.

    Example:
      >>> from fedsparsify_jax import models
      >>> model = models.build("mlp", input_shape=(2, 2), num_classes=2, hidden=(3,))
      >>> graph = trace(model.apply, model.init(jax.random.key(0)), (2, 2), "float32")
      >>> [node.kind for node in graph]
      ['input', 'reshape', 'dense', 'relu', 'dense']
    """
    x = jax.ShapeDtypeStruct((BATCH, *shape), dtype)
    values = jax.tree.map(np.asarray, values)
    closed = jax.make_jaxpr(lambda v, x: apply_fn(v, x)[0])(values, x)
    reader = _Reader(tuple(shape), str(np.dtype(dtype)))
    arguments: list[Any] = [
        _Known(leaf, name) for name, leaf in trees.named_leaves(values)
    ]
    (output,) = reader.run(closed, [*arguments, _Traced(0, x.shape)])
    if not isinstance(output, _Traced):
        raise UnknownOperationError("the outputs do not depend on the inputs")
    graph = pruned(reader.nodes, output.number)
    for node in graph:
        if "batch" in node.settings:
            raise UnknownOperationError(f"{node.kind} along the batch is not known")
    return graph


class _Reader:
    """Runs a traced program on known values and on numbers of nodes."""

    def __init__(self, shape: tuple[int, ...], dtype: str):
        self.nodes = [Node("input", (), shape, {"dtype": dtype})]
        self._same: dict[Any, _Traced] = {}

    def run(self, closed: ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
        """Returns the outputs of a program."""
        jaxpr: Jaxpr = closed.jaxpr
        values: dict[Any, Any] = {}
        for variable, const in zip(jaxpr.constvars, closed.consts, strict=True):
            values[variable] = _Known(np.asarray(const))
        values |= dict(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Any:
            if isinstance(atom, Literal):
                return _Known(np.asarray(atom.val))
            return values[atom]

        for eqn in jaxpr.eqns:
            results = self._step(eqn, [read(atom) for atom in eqn.invars])
            values |= dict(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _step(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        """Returns the results of one operation."""
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if isinstance(inner, ClosedJaxpr) and eqn.primitive.name in _CALLS:
            return self.run(inner, inputs)
        # Of what differs by platform, the way that is for no one platform.
        platforms = eqn.params.get("branches_platforms") or ()
        if None in platforms:
            general = eqn.params["branches"][platforms.index(None)]
            return self.run(general, inputs[1:])  # the first is the platform
        (out,) = eqn.outvars if len(eqn.outvars) == 1 else (None,)
        name = eqn.primitive.name
        if out is not None and 0 in out.aval.shape:
            return [_Known(np.zeros(out.aval.shape, out.aval.dtype))]
        if all(isinstance(value, _Known) for value in inputs):
            return _computed(eqn, inputs)
        if out is None or name not in _READ:
            raise UnknownOperationError(f"its operation {name!r} is not known")
        return [_READ[name](self, eqn, *inputs)]

    def add(self, kind: str, sources: Sequence[_Traced], eqn: Any, **more: Any) -> Any:
        """Adds a node with the shape of an operation's result, or finds the same."""
        shape = tuple(eqn.outvars[0].aval.shape)
        batch = {} if shape[:1] == (BATCH,) else {"batch": list(shape)}
        arrays, name = more.pop("arrays", {}), more.pop("name", "")
        node = Node(
            kind=kind,
            inputs=tuple(source.number for source in sources),
            shape=shape[1:],
            settings=more | batch,
            arrays=arrays,
            name=name,
        )
        if len(shape) < 2:
            raise UnknownOperationError(f"{kind} leaves no axis beside the batch")
        same = (kind, node.inputs, node.shape, repr(node.settings))
        if not arrays and same in self._same:
            return self._same[same]
        self.nodes.append(node)
        traced = _Traced(len(self.nodes) - 1, shape)
        self._same[same] = traced
        return traced


_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2")


def _computed(eqn: Any, inputs: list[_Known]) -> list[_Known]:
    """Computes an operation on known values."""
    if eqn.primitive.name == "broadcast_in_dim":  # a view: volumes are large
        (array,), shape = inputs, eqn.params["shape"]
        spread = [1] * len(shape)
        for axis, place in enumerate(eqn.params["broadcast_dimensions"]):
            spread[place] = array.value.shape[axis]
        return [_Known(np.broadcast_to(array.value.reshape(spread), shape))]
    values = [jnp.asarray(known.value) for known in inputs]
    results = eqn.primitive.bind(*values, **eqn.params)
    results = results if eqn.primitive.multiple_results else [results]
    return [_Known(np.asarray(result)) for result in results]


def _features(known: _Known) -> np.ndarray:
    """Returns a constant without batch and repetitions: a number, ``[C]``, or more."""
    array = known.value
    if array.ndim == 0:
        return array
    for axis in range(array.ndim):
        first = array[(slice(None),) * axis + (slice(0, 1),)]
        last = axis == array.ndim - 1
        if array.shape[axis] == 1 or array.strides[axis] == 0:
            same = True
        else:
            same = not last and bool(np.all(array == first))
        if axis == 0 and not same:
            raise UnknownOperationError(
                "numbers that differ along the batch are not known"
            )
        array = first if same else array
    array = np.array(array[0])
    if array.size == 1:
        return array.reshape(())
    by_channel = array.size == array.shape[-1]
    return array.reshape(-1) if by_channel else array


def _affine(reader: _Reader, eqn: Any, x: _Traced, **arrays: np.ndarray) -> _Traced:
    return reader.add("affine", [x], eqn, arrays=arrays)


def _arithmetic(reader: _Reader, eqn: Any, a: Any, b: Any) -> _Traced:
    """Reads add, sub, mul, div and max, of results or with constants."""
    name = eqn.primitive.name
    if isinstance(a, _Traced) and isinstance(b, _Traced):
        if name == "div":
            raise UnknownOperationError("its operation 'div' is not known")
        return reader.add(name, [a, b], eqn)
    x, known = (a, b) if isinstance(a, _Traced) else (b, a)
    number, swapped = _features(known), x is b
    if eqn.outvars[0].aval.shape != x.shape:
        raise UnknownOperationError(f"{name} with a larger constant is not known")
    if name == "max":
        if np.any(number != 0):
            raise UnknownOperationError("max with a constant is not known")
        return reader.add("relu", [x], eqn)
    if not np.any(number) and (name == "add" or (name == "sub" and not swapped)):
        return x
    if name == "add":
        return _affine(reader, eqn, x, shift=number)
    if name == "mul":
        return _affine(reader, eqn, x, scale=number)
    if name == "sub" and swapped:
        return _affine(reader, eqn, x, scale=-np.ones((), number.dtype), shift=number)
    if name == "sub":
        return _affine(reader, eqn, x, shift=-number)
    if swapped:
        raise UnknownOperationError("division of a constant is not known")
    return _affine(reader, eqn, x, scale=(1 / number.astype(float)).astype(np.float32))


def _unary(kind: str) -> Callable[..., _Traced]:
    def read(reader: _Reader, eqn: Any, x: _Traced) -> _Traced:
        return reader.add(kind, [x], eqn)

    return read


def _power(reader: _Reader, eqn: Any, x: _Traced) -> _Traced:
    if eqn.params["y"] != 2:
        raise UnknownOperationError("powers other than squares are not known")
    return reader.add("square", [x], eqn)


def _cast(reader: _Reader, eqn: Any, x: _Traced) -> _Traced:
    return reader.add("cast", [x], eqn, dtype=str(np.dtype(eqn.params["new_dtype"])))


def _layer_name(known: _Known) -> str:
    return known.name.removeprefix("params/").removesuffix("/kernel")


def _dot(reader: _Reader, eqn: Any, x: Any, kernel: Any) -> _Traced:
    if not isinstance(x, _Traced) or not isinstance(kernel, _Known):
        raise UnknownOperationError("products of two results are not known")
    last = ((len(x.shape) - 1,), (0,))
    contracted, batched = eqn.params["dimension_numbers"]
    if tuple(map(tuple, contracted)) != last or any(batched) or kernel.value.ndim != 2:
        raise UnknownOperationError("products along other axes are not known")
    arrays = {"kernel": kernel.value}
    return reader.add("dense", [x], eqn, arrays=arrays, name=_layer_name(kernel))


def _conv(reader: _Reader, eqn: Any, x: Any, kernel: Any) -> _Traced:
    params, rank = eqn.params, len(x.shape)
    layout, space = params["dimension_numbers"], tuple(range(1, rank - 1))
    plain = (
        isinstance(x, _Traced)
        and isinstance(kernel, _Known)
        and layout.lhs_spec == layout.out_spec == (0, rank - 1, *space)
        and layout.rhs_spec == (rank - 1, rank - 2, *range(rank - 2))
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and set(params["lhs_dilation"]) == {1}
        and min(min(pair) for pair in params["padding"]) >= 0
    )
    if not plain:
        raise UnknownOperationError(
            "convolutions in groups, or dilated ones, are not known"
        )
    return reader.add(
        "conv",
        [x],
        eqn,
        strides=list(params["window_strides"]),
        padding=[[int(n) for n in pair] for pair in params["padding"]],
        dilation=list(params["rhs_dilation"]),
        arrays={"kernel": kernel.value},
        name=_layer_name(kernel),
    )


def _sum(reader: _Reader, eqn: Any, x: _Traced) -> _Traced:
    axes = sorted(eqn.params["axes"])
    if 0 in axes or len(x.shape) - 1 in axes:
        raise UnknownOperationError(
            "sums over the batch or the last axis are not known"
        )
    return reader.add("sum", [x], eqn, axes=[axis - 1 for axis in axes], keep=False)


def _reshape(reader: _Reader, eqn: Any, x: _Traced) -> _Traced:
    shape = tuple(eqn.outvars[0].aval.shape)
    source = reader.nodes[x.number]
    if shape == x.shape:
        return x
    if source.kind == "sum" and np.prod(shape) == np.prod(x.shape):
        before = reader.nodes[source.inputs[0]].shape
        axes = source.settings["axes"]
        kept = tuple(1 if n in axes else size for n, size in enumerate(before))
        if shape == (BATCH, *kept):  # back to where they were
            inputs = [_Traced(source.inputs[0], (BATCH, *before))]
            return reader.add("sum", inputs, eqn, axes=axes, keep=True)
    return reader.add("reshape", [x], eqn)


def _broadcast(reader: _Reader, eqn: Any, x: _Traced) -> _Traced:
    shape = eqn.outvars[0].aval.shape
    if np.prod(shape) != np.prod(x.shape):
        raise UnknownOperationError("repetition of results is not known")
    return _reshape(reader, eqn, x)


def _slice(reader: _Reader, eqn: Any, x: _Traced) -> _Traced:
    if tuple(eqn.outvars[0].aval.shape) == x.shape:
        return x
    start, stop = eqn.params["start_indices"], eqn.params["limit_indices"]
    step = eqn.params["strides"] or (1,) * len(start)
    return reader.add(
        "slice",
        [x],
        eqn,
        start=list(start[1:]),
        stop=list(stop[1:]),
        step=list(step[1:]),
    )


def _concatenate(reader: _Reader, eqn: Any, *parts: Any) -> _Traced:
    filled = [p for p in parts if isinstance(p, _Traced) or p.value.size]
    if not all(isinstance(part, _Traced) for part in filled):
        raise UnknownOperationError("joining results to constants is not known")
    if len(filled) == 1:
        (only,) = filled
        return only
    return reader.add("concatenate", filled, eqn, axis=eqn.params["dimension"] - 1)


def _pad(reader: _Reader, eqn: Any, x: _Traced, value: Any) -> _Traced:
    config = [tuple(map(int, widths)) for widths in eqn.params["padding_config"]]
    if tuple(eqn.outvars[0].aval.shape) == x.shape:
        return x
    zero = isinstance(value, _Known) and not np.any(value.value)
    if not zero or any(inner or min(a, b) < 0 for a, b, inner in config):
        raise UnknownOperationError("padding with anything but zeros is not known")
    return reader.add("pad", [x], eqn, widths=[[a, b] for a, b, _ in config[1:]])


_READ: dict[str, Callable[..., _Traced]] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "max"), _arithmetic),
    "tanh": _unary("tanh"),
    "logistic": _unary("sigmoid"),
    "exp": _unary("exp"),
    "sqrt": _unary("sqrt"),
    "rsqrt": _unary("rsqrt"),
    "square": _unary("square"),
    "integer_pow": _power,
    "convert_element_type": _cast,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reduce_sum": _sum,
    "reshape": _reshape,
    "squeeze": _reshape,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "concatenate": _concatenate,
    "pad": _pad,
}

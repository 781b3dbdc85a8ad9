"""A `Graph` as a program of Core ML's intermediate language, for one example.

Results have channels in front of space from the first node that needs it to the last
one that does, as in `formats.onnx_graph`.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fedsparsify_jax.deploy.formats.layout import Value, axis_of, in_order, turn
from fedsparsify_jax.deploy.graph.nodes import Graph, Node, dtype_of
from fedsparsify_jax.errors import InputError

SPARSE_BELOW = 0.9
"""Density below which a weight is stored as bits and values; they tie at 31 / 32."""
SMALLEST = 64
"""Entries below which a weight is stored dense."""


def program_of(tools: Any, graph: Graph, *, sparse: bool = True) -> Any:
    """Returns the program of a network, ``input`` to ``output``.

    Args:
      tools: the package ``coremltools``.
      graph: simplified.
      sparse: whether weights that are mostly zeros are stored without them.

    Raises:
      InputError: for a node that has no operation here.
    """
    for node in graph[1:]:
        if node.kind not in _RULES:
            raise InputError(f"Core ML has no operation for the layer {node.kind!r}")
    writer = _Writer(tools, sparse)
    types = tools.converters.mil.mil.types
    floats = dtype_of(graph).kind == "f"
    kind = types.fp32 if floats else types.int32
    spec = writer.mil.TensorSpec(shape=(1, *graph[0].shape), dtype=kind)

    def body(**inputs: Any) -> Any:
        x = inputs["input"]
        results = [Value(x if floats else writer.floats(x), graph[0].shape)]
        for node in graph[1:]:
            values = [results[source] for source in node.inputs]
            results.append(_RULES[node.kind](writer, node, *values))
        return writer.mil.identity(x=writer.last(results[-1]).name, name="output")

    return _program(tools, writer.mil, spec, body)


def _program(tools: Any, mil: Any, spec: Any, body: Callable[..., Any]) -> Any:
    """Builds a program of one function whose input is called ``input``."""
    parts = tools.converters.mil.mil
    program = parts.Program()
    target = tools.target.iOS16
    with parts.Function({"input": spec}, opset_version=target) as function:
        function.set_outputs([body(**function.inputs)])
        program.add_function("main", function)
    return program


class _Writer:
    """The operations and the constants of a program."""

    def __init__(self, tools: Any, sparse: bool):
        self.mil = tools.converters.mil.Builder
        self._may_be_sparse = sparse

    def floats(self, x: Any) -> Any:
        """Returns integers as float32."""
        return self.mil.cast(x=x, dtype="fp32")

    def weight(self, array: np.ndarray) -> Any:
        """Returns a weight: a constant, or bits and the values where they are 1."""
        array = np.ascontiguousarray(array, np.float32)
        kept = (array != 0) | np.signbit(array)  # so that -0.0 survives
        few = kept.any() and kept.mean() < SPARSE_BELOW and array.size >= SMALLEST
        if not (self._may_be_sparse and few):
            return array
        return self.mil.constexpr_sparse_to_dense(
            nonzero_data=array[kept],
            mask=np.packbits(kept.ravel(), bitorder="little"),
            shape=np.array(array.shape, np.uint32),
        )

    def first(self, x: Value) -> Value:
        """Returns a result with the channels in front of space."""
        return self._turned(x, to_first=True)

    def last(self, x: Value) -> Value:
        """Returns a result with the channels behind space."""
        return self._turned(x, to_first=False)

    def _turned(self, x: Value, *, to_first: bool) -> Value:
        axes = len(x.shape)
        if axes < 2 or x.first == to_first:
            return x._replace(first=to_first)
        order = turn(axes, to_first=to_first)
        result = self.mil.transpose(x=x.name, perm=order)
        return Value(result, x.shape, to_first)


def _constant(x: Value, array: Any) -> np.ndarray:
    """Returns numbers in a shape that goes with a result."""
    array = np.asarray(array, np.float32)
    if array.ndim == 0:
        return array
    if array.ndim == 1:
        spread = [1] * (len(x.shape) - 1)
        return array.reshape([1, -1, *spread] if x.first else [1, *spread, -1])
    array = np.moveaxis(array, -1, 0) if x.first else array
    return np.ascontiguousarray(array[None])


def _affine(writer: _Writer, node: Node, x: Value) -> Value:
    result = x.name
    for name, apply in (("scale", writer.mil.mul), ("shift", writer.mil.add)):
        if name in node.arrays:
            result = apply(x=result, y=_constant(x, node.arrays[name]))
    return Value(result, node.shape, x.first)


def _dense(writer: _Writer, node: Node, x: Value) -> Value:
    x = writer.last(x)
    weight = writer.weight(np.transpose(node.arrays["kernel"]))
    bias = {k: np.asarray(a, np.float32) for k, a in node.arrays.items() if k == "bias"}
    return Value(writer.mil.linear(x=x.name, weight=weight, **bias), node.shape)


def _conv(writer: _Writer, node: Node, x: Value) -> Value:
    x = writer.first(x)
    kernel = np.moveaxis(node.arrays["kernel"], (-1, -2), (0, 1))
    bias = {k: np.asarray(a, np.float32) for k, a in node.arrays.items() if k == "bias"}
    result = writer.mil.conv(
        x=x.name,
        weight=writer.weight(kernel),
        strides=list(node.settings["strides"]),
        pad_type="custom",
        pad=[width for pair in node.settings["padding"] for width in pair],
        dilations=list(node.settings["dilation"]),
        **bias,
    )
    return Value(result, node.shape, True)


def _pool(writer: _Writer, node: Node, x: Value) -> Value:
    *space, of_channels = node.settings["window"]
    if of_channels != 1:
        raise InputError("Core ML has no operation for pools along the channels")
    is_max = node.kind == "max_pool"
    apply = writer.mil.max_pool if is_max else writer.mil.avg_pool
    x = writer.first(x)
    sizes = {"kernel_sizes": space, "strides": space, "pad_type": "valid"}
    return Value(apply(x=x.name, **sizes), node.shape, True)


def _mean(writer: _Writer, node: Node, x: Value) -> Value:
    axes, keep = [axis_of(x, n) for n in node.settings["axes"]], node.settings["keep"]
    result = writer.mil.reduce_mean(x=x.name, axes=axes, keep_dims=bool(keep))
    return Value(result, node.shape, x.first and len(node.shape) > 1)


def _instance_norm(writer: _Writer, node: Node, x: Value) -> Value:
    mil = writer.mil
    axes = [axis_of(x, n) for n in range(len(x.shape) - 1)]
    mean = functools.partial(mil.reduce_mean, axes=axes, keep_dims=True)
    centred = mil.sub(x=x.name, y=mean(x=x.name))
    epsilon = np.float32(node.settings["epsilon"])
    var = mil.add(x=mean(x=mil.square(x=centred)), y=epsilon)
    return Value(mil.real_div(x=centred, y=mil.sqrt(x=var)), node.shape, x.first)


def _pad(writer: _Writer, node: Node, x: Value) -> Value:
    pairs = in_order(x, node.settings["widths"], (0, 0))
    widths = [width for pair in pairs for width in pair]
    zero = np.float32(0)
    result = writer.mil.pad(x=x.name, pad=widths, mode="constant", constant_val=zero)
    return Value(result, node.shape, x.first)


def _slice(writer: _Writer, node: Node, x: Value) -> Value:
    begin, end, stride = (
        in_order(x, node.settings[name], before)
        for name, before in (("start", 0), ("stop", 1), ("step", 1))
    )
    result = writer.mil.slice_by_index(x=x.name, begin=begin, end=end, stride=stride)
    return Value(result, node.shape, x.first)


def _concatenate(writer: _Writer, node: Node, *xs: Value) -> Value:
    bring = writer.first if xs[0].first else writer.last
    alike = [bring(x) for x in xs]
    axis = axis_of(alike[0], node.settings["axis"])
    result = writer.mil.concat(values=[x.name for x in alike], axis=axis)
    return Value(result, node.shape, xs[0].first)


def _reshape(writer: _Writer, node: Node, x: Value) -> Value:
    x = x if x.is_one_place else writer.last(x)
    return Value(writer.mil.reshape(x=x.name, shape=[1, *node.shape]), node.shape)


def _take(writer: _Writer, node: Node, x: Value) -> Value:
    indices, axis = node.arrays["indices"], axis_of(x, len(x.shape) - 1)
    places = np.asarray(indices, np.int32)
    result = writer.mil.gather(x=x.name, indices=places, axis=axis)
    return Value(result, node.shape, x.first)


def _cast(writer: _Writer, node: Node, x: Value) -> Value:
    if node.settings["dtype"] != "float32":
        raise InputError(
            f"Core ML has no operation for a cast to {node.settings['dtype']}"
        )
    return x._replace(shape=node.shape)  # integers are made float32 at the start


def _unary(writer: _Writer, node: Node, x: Value) -> Value:
    if node.kind == "rsqrt":  # Core ML's own adds an epsilon
        root = writer.mil.sqrt(x=x.name)
        result = writer.mil.real_div(x=np.float32(1), y=root)
    else:
        result = getattr(writer.mil, node.kind)(x=x.name)
    return Value(result, node.shape, x.first)


def _binary(writer: _Writer, node: Node, x: Value, y: Value) -> Value:
    y = writer.first(y) if x.first else writer.last(y)
    apply = getattr(writer.mil, "maximum" if node.kind == "max" else node.kind)
    return Value(apply(x=x.name, y=y.name), node.shape, x.first)


_UNARY = ("relu", "tanh", "sigmoid", "exp", "sqrt", "rsqrt", "square")
_RULES: dict[str, Callable[..., Value]] = {
    "affine": _affine,
    "dense": _dense,
    "conv": _conv,
    "max_pool": _pool,
    "mean_pool": _pool,
    "mean": _mean,
    "instance_norm": _instance_norm,
    "pad": _pad,
    "slice": _slice,
    "concatenate": _concatenate,
    "reshape": _reshape,
    "take": _take,
    "cast": _cast,
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(("add", "sub", "mul", "max"), _binary),
}

"""A `Graph` as an ONNX model: Gemm, Conv and what is between them, any batch size.

ONNX has channels in front of space. Results are held that way from the first node
that needs it to the last one that does, so that few transpositions are left.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedsparsify_jax.deploy.formats.layout import Value, axis_of, in_order, turn
from fedsparsify_jax.deploy.graph.nodes import Graph, Node, dtype_of
from fedsparsify_jax.errors import InputError

OPSET, IR_VERSION = 18, 9
"""Of 2022 and 2023: every engine of today reads them."""
SPARSE_BELOW = 1 / 3
"""Density below which a weight is smaller as values of 4 and positions of 8 bytes."""
BATCH = "batch"


def needs_onnx() -> Any:
    """Returns the package ``onnx``.

    Raises:
      InputError: with the command that installs it.
    """
    try:
        import onnx
    except ImportError:
        raise InputError(
            "ONNX files need onnx: pip install 'fedsparsify_jax[onnx]'"
        ) from None
    return onnx


def to_onnx(graph: Graph, *, sparse: bool = True, metadata: dict[str, str]) -> bytes:
    """Returns the file of a network.

    Args:
      graph: simplified.
      sparse: whether weights that are mostly zeros become sparse initialisers. Some
        engines read only dense ones; onnxruntime reads both.
      metadata: properties of the model.

    Raises:
      InputError: for a node that ONNX has no operation for, or without ``onnx``.
    """
    onnx = needs_onnx()
    writer = _Writer(sparse)
    start = Value("input", graph[0].shape)
    results = [start]
    for node in graph[1:]:
        rule = _RULES.get(node.kind)
        if rule is None:
            raise InputError(f"ONNX has no operation for the layer {node.kind!r}")
        inputs = [results[source] for source in node.inputs]
        results.append(rule(writer, node, *inputs))
    output = writer.last(results[-1])
    writer.add("Identity", [output.name], output.shape, output="output")
    helper = onnx.helper
    kind = helper.np_dtype_to_tensor_dtype(dtype_of(graph))
    floats = onnx.TensorProto.FLOAT
    made = helper.make_graph(
        writer.nodes,
        "fedsparsify",
        [helper.make_tensor_value_info("input", kind, [BATCH, *start.shape])],
        [helper.make_tensor_value_info("output", floats, [BATCH, *output.shape])],
        initializer=writer.dense,
        sparse_initializer=writer.sparse,
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        made, opset_imports=opset, producer_name="fedsparsify_jax"
    )
    model.ir_version = IR_VERSION
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


class _Writer:
    """The parts of an ONNX graph, while it is put together."""

    def __init__(self, sparse: bool):
        self.onnx = needs_onnx()
        self.nodes: list[Any] = []
        self.dense: list[Any] = []
        self.sparse: list[Any] = []
        self._may_be_sparse = sparse
        self._names: set[str] = {"input", "output"}

    def fresh(self, wish: str) -> str:
        """Returns a name that is not taken."""
        name, number = wish, 1
        while name in self._names:
            number += 1
            name = f"{wish}_{number}"
        self._names.add(name)
        return name

    def array(self, wish: str, array: np.ndarray) -> str:
        """Adds an initialiser; returns its name."""
        name, array = self.fresh(wish), np.ascontiguousarray(array)
        few = np.count_nonzero(array) < SPARSE_BELOW * array.size
        is_float = array.dtype == np.float32
        if not (self._may_be_sparse and few and is_float and array.size >= 64):
            self.dense.append(self.onnx.numpy_helper.from_array(array, name))
            return name
        (places,) = np.nonzero(array.ravel())
        from_array = self.onnx.numpy_helper.from_array
        values = from_array(array.ravel()[places], name)
        indices = from_array(places.astype(np.int64), f"{name}_indices")
        make = self.onnx.helper.make_sparse_tensor
        self.sparse.append(make(values, indices, list(array.shape)))
        return name

    def add(
        self,
        operation: str,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        *,
        first: bool = False,
        output: str = "",
        name: str = "",
        **attributes: Any,
    ) -> Value:
        """Adds a node; returns its result."""
        name = self.fresh(name or operation.lower())
        output = output or name
        node = self.onnx.helper.make_node(
            operation, list(inputs), [output], name=name, **attributes
        )
        self.nodes.append(node)
        return Value(output, shape, first)

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
        return self.add("Transpose", [x.name], x.shape, first=to_first, perm=order)


def _constant(writer: _Writer, x: Value, array: np.ndarray, wish: str) -> str:
    """Adds a constant in a shape that goes with a result."""
    array = np.asarray(array, np.float32)
    if array.ndim == 1:
        spread = [1] * (len(x.shape) - 1)
        array = array.reshape([-1, *spread] if x.first else [*spread, -1])
    elif array.ndim > 1 and x.first:
        array = np.moveaxis(array, -1, 0)
    return writer.array(wish, array)


def _affine(writer: _Writer, node: Node, x: Value) -> Value:
    for name, operation in (("scale", "Mul"), ("shift", "Add")):
        if name in node.arrays:
            number = _constant(writer, x, node.arrays[name], name)
            inputs = [x.name, number]
            x = writer.add(operation, inputs, node.shape, first=x.first)
    return x


def _dense(writer: _Writer, node: Node, x: Value) -> Value:
    wish = node.name or "dense"
    kernel = writer.array(f"{wish}/kernel", node.arrays["kernel"])
    bias = [
        writer.array(f"{wish}/{name}", np.asarray(array, np.float32))
        for name, array in node.arrays.items()
        if name == "bias"
    ]
    if len(x.shape) == 1:
        return writer.add("Gemm", [x.name, kernel, *bias], node.shape, name=wish)
    x = writer.last(x)
    y = writer.add("MatMul", [x.name, kernel], node.shape, name=wish)
    return writer.add("Add", [y.name, *bias], node.shape) if bias else y


def _conv(writer: _Writer, node: Node, x: Value) -> Value:
    x, wish = writer.first(x), node.name or "conv"
    kernel = np.moveaxis(node.arrays["kernel"], (-1, -2), (0, 1))
    inputs = [x.name, writer.array(f"{wish}/kernel", kernel)]
    if "bias" in node.arrays:
        inputs.append(writer.array(f"{wish}/bias", node.arrays["bias"]))
    starts, ends = zip(*node.settings["padding"], strict=True)
    return writer.add(
        "Conv",
        inputs,
        node.shape,
        first=True,
        name=wish,
        kernel_shape=list(kernel.shape[2:]),
        strides=list(node.settings["strides"]),
        dilations=list(node.settings["dilation"]),
        pads=[*starts, *ends],
    )


def _pool(writer: _Writer, node: Node, x: Value) -> Value:
    *space, of_channels = node.settings["window"]
    if of_channels != 1:
        raise InputError("ONNX has no operation for pools along the channels")
    operation = "MaxPool" if node.kind == "max_pool" else "AveragePool"
    x = writer.first(x)
    return writer.add(
        operation,
        [x.name],
        node.shape,
        first=True,
        kernel_shape=space,
        strides=space,
    )


def _mean(writer: _Writer, node: Node, x: Value) -> Value:
    axes = np.array([axis_of(x, n) for n in node.settings["axes"]], np.int64)
    inputs = [x.name, writer.array("axes", axes)]
    keep = node.settings["keep"]
    first = x.first and len(node.shape) > 1
    return writer.add("ReduceMean", inputs, node.shape, first=first, keepdims=int(keep))


def _instance_norm(writer: _Writer, node: Node, x: Value) -> Value:
    x = writer.first(x)
    ones = np.ones(node.channels, np.float32)
    inputs = [x.name, writer.array("scale", ones), writer.array("shift", 0 * ones)]
    epsilon = node.settings["epsilon"]
    return writer.add(
        "InstanceNormalization", inputs, node.shape, first=True, epsilon=epsilon
    )


def _pad(writer: _Writer, node: Node, x: Value) -> Value:
    widths = in_order(x, node.settings["widths"], (0, 0))
    pads = [start for start, _ in widths] + [end for _, end in widths]
    amounts = writer.array("pads", np.array(pads, np.int64))
    return writer.add("Pad", [x.name, amounts], node.shape, first=x.first)


def _slice(writer: _Writer, node: Node, x: Value) -> Value:
    axes = [axis_of(x, n) for n in range(len(x.shape))]
    names = ("start", "stop", "step")
    start, stop, step = (
        writer.array(name, np.array(node.settings[name], np.int64)) for name in names
    )
    inputs = [x.name, start, stop, writer.array("axes", np.array(axes)), step]
    return writer.add("Slice", inputs, node.shape, first=x.first)


def _concatenate(writer: _Writer, node: Node, *xs: Value) -> Value:
    turn = writer.first if xs[0].first else writer.last
    alike = [turn(x) for x in xs]
    axis = axis_of(alike[0], node.settings["axis"])
    names = [x.name for x in alike]
    return writer.add("Concat", names, node.shape, first=xs[0].first, axis=axis)


def _reshape(writer: _Writer, node: Node, x: Value) -> Value:
    x = x if x.is_one_place else writer.last(x)
    shape = writer.array("shape", np.array([-1, *node.shape], np.int64))
    return writer.add("Reshape", [x.name, shape], node.shape)


def _take(writer: _Writer, node: Node, x: Value) -> Value:
    indices = writer.array("indices", np.asarray(node.arrays["indices"], np.int64))
    axis = axis_of(x, len(x.shape) - 1)
    inputs = [x.name, indices]
    return writer.add("Gather", inputs, node.shape, first=x.first, axis=axis)


def _cast(writer: _Writer, node: Node, x: Value) -> Value:
    kind = writer.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(node.settings["dtype"]))
    return writer.add("Cast", [x.name], node.shape, first=x.first, to=kind)


def _unary(*operations: str) -> Callable[..., Value]:
    def rule(writer: _Writer, node: Node, x: Value) -> Value:
        for operation in operations:
            x = writer.add(operation, [x.name], node.shape, first=x.first)
        return x

    return rule


def _square(writer: _Writer, node: Node, x: Value) -> Value:
    return writer.add("Mul", [x.name, x.name], node.shape, first=x.first)


def _binary(operation: str) -> Callable[..., Value]:
    def rule(writer: _Writer, node: Node, x: Value, y: Value) -> Value:
        y = writer.first(y) if x.first else writer.last(y)
        return writer.add(operation, [x.name, y.name], node.shape, first=x.first)

    return rule


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
    "relu": _unary("Relu"),
    "tanh": _unary("Tanh"),
    "sigmoid": _unary("Sigmoid"),
    "exp": _unary("Exp"),
    "sqrt": _unary("Sqrt"),
    "rsqrt": _unary("Sqrt", "Reciprocal"),
    "square": _square,
    "add": _binary("Add"),
    "sub": _binary("Sub"),
    "mul": _binary("Mul"),
    "max": _binary("Max"),
}

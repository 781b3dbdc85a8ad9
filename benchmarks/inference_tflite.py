"""A network's layers as a LiteRT file, written with the schema that LiteRT brings.

LiteRT's own converters start from TensorFlow or PyTorch programs. The layers of a
compacted or simplified graph are few, so they are written directly: channels last,
weights dense, a fixed batch. Runs where ``ai_edge_litert`` is installed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

Arrays = Mapping[str, np.ndarray]
_TYPES = {
    np.dtype("float32"): schema.TensorType.FLOAT32,
    np.dtype("uint8"): schema.TensorType.UINT8,
    np.dtype("int32"): schema.TensorType.INT32,
}


class _Writer:
    """The parts of a LiteRT model, while it is put together."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.graph.tensors, self.graph.operators = [], []
        self._codes: dict[int, int] = {}

    def tensor(self, shape: Any, dtype: Any, buffer: int = 0) -> int:
        """Adds a tensor; returns its number."""
        made = schema.TensorT()
        made.shape, made.type = list(shape), _TYPES[np.dtype(dtype)]
        made.buffer, made.name = buffer, f"tensor_{len(self.graph.tensors)}"
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def constant(self, array: Any, dtype: Any = "float32") -> int:
        """Adds a tensor of fixed numbers."""
        array = np.ascontiguousarray(array, dtype)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return self.tensor(array.shape, dtype, len(self.model.buffers) - 1)

    def add(
        self, name: str, inputs: list[int], shape: Any, options: str = "", **values: Any
    ) -> int:
        """Adds an operation with float results; returns the number of its result."""
        code = getattr(schema.BuiltinOperator, name)
        if code not in self._codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode = code, min(code, 127)
            entry.version = 1
            self._codes[code] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(entry)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs = self._codes[code], inputs
        dtype = values.pop("dtype", "float32")
        if options:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, f"{options}T")()
            for key, value in values.items():
                setattr(made.builtinOptions, key, value)
        result = self.tensor(shape, dtype)
        made.outputs = [result]
        self.graph.operators.append(made)
        return result


def _cast(writer: _Writer, node: Any, arrays: Arrays, x: int, shape: Any) -> int:
    return writer.add("CAST", [x], shape)


def _affine(writer: _Writer, node: Any, arrays: Arrays, x: int, shape: Any) -> int:
    for name, operation in (("scale", "MUL"), ("shift", "ADD")):
        if name in arrays:
            options = f"{operation.title()}Options"
            x = writer.add(
                operation, [x, writer.constant(arrays[name])], shape, options
            )
    return x


def _reshape(writer: _Writer, node: Any, arrays: Arrays, x: int, shape: Any) -> int:
    wanted = writer.constant(shape, "int32")
    dtype = (
        "uint8"
        if writer.graph.tensors[x].type == schema.TensorType.UINT8
        else "float32"
    )
    return writer.add(
        "RESHAPE",
        [x, wanted],
        shape,
        "ReshapeOptions",
        newShape=list(shape),
        dtype=dtype,
    )


def _take(writer: _Writer, node: Any, arrays: Arrays, x: int, shape: Any) -> int:
    places = writer.constant(arrays["indices"], "int32")
    axis = len(shape) - 1
    dtype = (
        "uint8"
        if writer.graph.tensors[x].type == schema.TensorType.UINT8
        else "float32"
    )
    return writer.add(
        "GATHER", [x, places], shape, "GatherOptions", axis=axis, dtype=dtype
    )


def _dense(writer: _Writer, node: Any, arrays: Arrays, x: int, shape: Any) -> int:
    kernel = arrays["kernel"]
    bias = arrays.get("bias", np.zeros(kernel.shape[1]))
    inputs = [x, writer.constant(kernel.T), writer.constant(bias)]
    return writer.add("FULLY_CONNECTED", inputs, shape, "FullyConnectedOptions")


def _conv(writer: _Writer, node: Any, arrays: Arrays, x: int, shape: Any) -> int:
    settings, kernel = node["settings"], arrays["kernel"]
    height, width, _, outputs = kernel.shape
    same = [[(height - 1) // 2] * 2, [(width - 1) // 2] * 2]
    padding = [list(pair) for pair in settings["padding"]]
    if set(settings["strides"] + settings["dilation"]) != {1} or padding != same:
        raise ValueError("only convolutions with stride 1 that keep the size")
    bias = arrays.get("bias", np.zeros(outputs))
    inputs = [x, writer.constant(kernel.transpose(3, 0, 1, 2)), writer.constant(bias)]
    return writer.add(
        "CONV_2D",
        inputs,
        shape,
        "Conv2DOptions",
        padding=schema.Padding.SAME,
        strideH=1,
        strideW=1,
    )


def _max_pool(writer: _Writer, node: Any, arrays: Arrays, x: int, shape: Any) -> int:
    height, width, _ = node["settings"]["window"]
    return writer.add(
        "MAX_POOL_2D",
        [x],
        shape,
        "Pool2DOptions",
        padding=schema.Padding.VALID,
        strideH=height,
        strideW=width,
        filterHeight=height,
        filterWidth=width,
    )


def _relu(writer: _Writer, node: Any, arrays: Arrays, x: int, shape: Any) -> int:
    return writer.add("RELU", [x], shape)


_RULES: dict[str, Callable[..., int]] = {
    "cast": _cast,
    "affine": _affine,
    "reshape": _reshape,
    "take": _take,
    "dense": _dense,
    "conv": _conv,
    "max_pool": _max_pool,
    "relu": _relu,
}


def to_tflite(layers: list[Any], arrays: list[Arrays], batch: int) -> bytes:
    """Returns the file of a sequential network.

    Args:
      layers: see `nodes.describe`; the first is the input.
      arrays: of every layer.
      batch: the number of examples, fixed.

    Raises:
      KeyError: for a layer that has no rule here.
    """
    writer = _Writer()
    first = layers[0]
    results = [writer.tensor([batch, *first["shape"]], first["settings"]["dtype"])]
    for node, own in zip(layers[1:], arrays[1:], strict=True):
        (source,) = node["inputs"]
        shape = [batch, *node["shape"]]
        results.append(_RULES[node["kind"]](writer, node, own, results[source], shape))
    writer.graph.inputs, writer.graph.outputs = [results[0]], [results[-1]]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(writer.model.Pack(builder), b"TFL3")
    return bytes(builder.Output())

"""ML programs of Core ML packages, read from their protobuf and run in NumPy.

Constants of more than a few numbers are in ``weight.bin``, behind a record of 64 bytes:
a mark, a type, the bytes, and where they begin (``MILBlob/Blob/StorageFormat.hpp``).
"""

import itertools
import math
import struct

import numpy as np
from coremltools.proto import MIL_pb2, Model_pb2

NAMES = {
    MIL_pb2.FLOAT32: np.float32,
    MIL_pb2.INT32: np.int32,
    MIL_pb2.UINT32: np.uint32,
    MIL_pb2.UINT8: np.uint8,
    MIL_pb2.BOOL: np.bool_,
}


class Program:
    """The operations of a program, and its weights as they are stored."""

    def __init__(self, block, blob):
        self._block, self._blob, self._constants = block, blob, {}
        self.sparse = []
        for op in block.operations:
            if op.type in ("const", "constexpr_sparse_to_dense"):
                self._constants[op.outputs[0].name] = self._constant(op)

    def _constant(self, op):
        if op.type == "const":
            return self._value(op.attributes["val"])
        # Parameters of such operations are attributes or inputs, by version.
        read = {name: self._value(value) for name, value in op.attributes.items()}
        for name, argument in op.inputs.items():
            read[name] = self._argument(argument, self._constants)
        shape = tuple(int(n) for n in read["shape"])
        bits = np.unpackbits(read["mask"], bitorder="little")[: math.prod(shape)]
        dense = np.zeros(math.prod(shape), np.float32)
        dense[np.flatnonzero(bits)] = read["nonzero_data"]
        self.sparse.append(op.outputs[0].name)
        return dense.reshape(shape)

    def _value(self, value):
        tensor = value.type.tensorType
        shape = [dimension.constant.size for dimension in tensor.dimensions]
        if value.WhichOneof("value") == "blobFileValue":
            offset = value.blobFileValue.offset
            mark, _, count, start = struct.unpack_from("<IIQQ", self._blob, offset)
            assert mark == 0xDEADBEEF
            raw = self._blob[start : start + count]
            return np.frombuffer(raw, NAMES[tensor.dataType]).reshape(shape)
        numbers = value.immediateValue.tensor
        kind = numbers.WhichOneof("value")
        values = getattr(numbers, kind).values
        if kind == "bytes":
            return np.frombuffer(values, NAMES[tensor.dataType]).reshape(shape)
        if kind == "strings":
            return values[0]
        return np.array(values, NAMES[tensor.dataType]).reshape(shape)

    def _argument(self, argument, values):
        read = [
            values[one.name]
            if one.WhichOneof("binding") == "name"
            else self._value(one.value)
            for one in argument.arguments
        ]
        return read[0] if len(read) == 1 else read

    def weights(self):
        """The weights of dense and convolutional layers, in order."""
        layers = (o for o in self._block.operations if o.type in ("linear", "conv"))
        return [self._argument(op.inputs["weight"], self._constants) for op in layers]

    def run(self, x):
        """The output for a batch of one."""
        values = self._constants | {"input": x}
        for op in self._block.operations:
            name = op.outputs[0].name
            if name in self._constants:
                continue
            inputs = {k: self._argument(a, values) for k, a in op.inputs.items()}
            values[name] = RUN[op.type](**inputs)
            dimensions = op.outputs[0].type.tensorType.dimensions
            assert values[name].shape == tuple(d.constant.size for d in dimensions)
        return values["output"]


def read(path):
    """The program of a package."""
    data = path / "Data" / "com.apple.CoreML"
    model = Model_pb2.Model.FromString((data / "model.mlmodel").read_bytes())
    (function,) = model.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    blob = data / "weights" / "weight.bin"  # not there if all numbers are few
    return Program(block, blob.read_bytes() if blob.exists() else b"")


def _windows(x, sizes, strides, dilations):
    """Views ``[batch, channels, *places]`` of the input, an entry of a window each."""
    places = [
        (length - d * (size - 1) - 1) // stride + 1
        for length, size, stride, d in zip(
            x.shape[2:], sizes, strides, dilations, strict=True
        )
    ]
    for entry in itertools.product(*map(range, sizes)):
        where = [
            slice(n * d, n * d + stride * (count - 1) + 1, stride)
            for n, d, stride, count in zip(
                entry, dilations, strides, places, strict=True
            )
        ]
        yield entry, x[(slice(None), slice(None), *where)]


def _conv(x, weight, strides, pad, dilations, bias=None, **_):
    pairs = np.reshape(pad, (-1, 2))
    x = np.pad(x, [(0, 0), (0, 0), *map(tuple, pairs)])
    y = sum(
        np.einsum("bi...,oi->bo...", view, weight[(slice(None), slice(None), *entry)])
        for entry, view in _windows(x, weight.shape[2:], strides, dilations)
    )
    return y if bias is None else y + bias.reshape(-1, *[1] * (x.ndim - 2))


def _pooled(combine):
    def run(x, kernel_sizes, strides, **_):
        ones = [1] * len(kernel_sizes)
        views = [view for _, view in _windows(x, kernel_sizes, strides, ones)]
        return combine(views, axis=0)

    return run


def _linear(x, weight, bias=None):
    y = x @ weight.T
    return y if bias is None else y + bias


def _reduce_mean(x, axes, keep_dims):
    return np.mean(x, axis=tuple(axes), keepdims=bool(keep_dims))


def _pad(x, pad, constant_val, **_):
    return np.pad(x, np.reshape(pad, (-1, 2)), constant_values=constant_val)


def _slice(x, begin, end, stride, **_):
    return x[tuple(map(slice, begin, end, stride))]


def _gather(x, indices, axis, **_):
    return np.take(x, indices, axis=int(axis))


def _concat(values, axis, **_):
    return np.concatenate(values, axis=int(axis))


RUN = {
    "cast": lambda x, dtype: x.astype(np.float32),
    "identity": lambda x: x,
    "transpose": lambda x, perm: np.transpose(x, perm),
    "reshape": lambda x, shape: np.reshape(x, shape),
    "linear": _linear,
    "conv": _conv,
    "max_pool": _pooled(np.max),
    "avg_pool": _pooled(np.mean),
    "reduce_mean": _reduce_mean,
    "pad": _pad,
    "slice_by_index": _slice,
    "gather": _gather,
    "concat": _concat,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "exp": np.exp,
    "sqrt": np.sqrt,
    "square": np.square,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "maximum": np.maximum,
}
RUN = {
    name: (lambda f: lambda **inputs: f(*inputs.values()))(run)
    if isinstance(run, np.ufunc)
    else run
    for name, run in RUN.items()
}

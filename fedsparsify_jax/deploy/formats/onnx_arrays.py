"""The weights of an ONNX file, dense and sparse ones, as NumPy arrays."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from fedsparsify_jax.deploy.formats.onnx import content_of
from fedsparsify_jax.deploy.formats.onnx_graph import needs_onnx
from fedsparsify_jax.deploy.graph.checks import MOST_NUMBERS
from fedsparsify_jax.errors import InputError


def weights(path: Path) -> dict[str, np.ndarray]:
    """Returns the floating-point initialisers of an ONNX file by name.

    Raises:
      InputError: for a file that is damaged or not ours, or without ``onnx``.
    """
    onnx, content = needs_onnx(), content_of(path)
    try:
        graph = onnx.load_model_from_string(content).graph
        arrays = {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in graph.initializer
        }
        for tensor in graph.sparse_initializer:
            arrays[tensor.values.name] = _dense(onnx, tensor)
    except Exception as error:  # as many kinds as there are kinds of damage
        raise InputError(f"{path} is no readable ONNX model ({error})") from error
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def _dense(onnx: Any, tensor: Any) -> np.ndarray:
    shape, read = tuple(tensor.dims), onnx.numpy_helper.to_array
    if not 0 <= math.prod(shape) <= MOST_NUMBERS:
        raise ValueError(f"a weight has the shape {shape}")
    values = read(tensor.values)
    array = np.zeros(math.prod(shape), values.dtype)
    array[read(tensor.indices)] = values
    return array.reshape(shape)

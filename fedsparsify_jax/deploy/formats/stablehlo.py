"""Models as programs of JAX: StableHLO for any batch size, weights inside."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedsparsify_jax.deploy.saved import SavedModel, portable
from fedsparsify_jax.errors import InputError

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""The platforms that a program is for."""


def _needs_flatbuffers() -> None:
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise InputError(
            "StableHLO files need flatbuffers: pip install 'fedsparsify_jax[onnx]'"
        ) from None


def to_stablehlo(saved: SavedModel) -> bytes:
    """Returns the program that maps raw inputs to outputs, serialised.

    Raises:
      InputError: without the package that serialises.
    """
    _needs_flatbuffers()
    forward, about = portable(saved), saved.about
    variables = jax.tree.map(np.asarray, saved.variables)
    shape = ("batch", *map(str, about["input_shape"]))
    (batch, *sizes) = jax.export.symbolic_shape(", ".join(shape))
    example = jax.ShapeDtypeStruct((batch, *sizes), np.dtype(about["input_dtype"]))
    program = jax.jit(lambda x: forward(variables, x)[0])
    exported = jax.export.export(program, platforms=PLATFORMS)(example)
    return bytes(exported.serialize())


def from_stablehlo(path: Path) -> Any:
    """Reads a program, a ``jax.export.Exported``.

    Raises:
      InputError: for a file that is damaged or no such program.
    """
    _needs_flatbuffers()
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
        (example,), (outputs,) = exported.in_avals, exported.out_avals
        if len(example.shape) < 2 or len(outputs.shape) != 2:
            raise ValueError("it maps no batch of examples to outputs")
    except Exception as error:  # as many kinds as there are kinds of damage
        raise InputError(
            f"{path} is no readable StableHLO program ({type(error).__name__}: {error})"
        ) from error
    return exported

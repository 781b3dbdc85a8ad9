"""Models as programs of JAX: StableHLO for any batch size, weights inside.

A file is what ``jax.export`` serialises, and behind that, where its reader does not
look, the model's description and a digest.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from fedsparsify_jax.deploy.formats.digests import with_digest, without_digest
from fedsparsify_jax.deploy.saved import LAYERS, SavedModel, portable
from fedsparsify_jax.errors import InputError

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""The platforms that a program is for."""
_MARK = b"\nfedsparsify stablehlo 1\n"
_LOCATIONS = "jax_traceback_in_locations_limit"


class Program(NamedTuple):
    """A program that was read."""

    exported: Any  # a jax.export.Exported
    about: dict[str, Any]  # the model's description


def _needs_flatbuffers() -> None:
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise InputError(
            "StableHLO files need flatbuffers: pip install 'fedsparsify_jax[onnx]'"
        ) from None


@contextlib.contextmanager
def _without_source_lines() -> Iterator[None]:
    """Keeps the paths of this machine out of what is compiled."""
    before = getattr(jax.config, _LOCATIONS)
    jax.config.update(_LOCATIONS, 0)
    try:
        yield
    finally:
        jax.config.update(_LOCATIONS, before)


def to_stablehlo(saved: SavedModel) -> bytes:
    """Returns the program that maps raw inputs to outputs, serialised.

    Raises:
      InputError: without the package that serialises.
    """
    _needs_flatbuffers()
    forward, about = portable(saved), saved.about
    variables = jax.tree.map(np.asarray, saved.variables)
    shape = ("batch", *map(str, about["input_shape"]))
    example = jax.ShapeDtypeStruct(
        export.symbolic_shape(", ".join(shape)), np.dtype(about["input_dtype"])
    )
    program = jax.jit(lambda x: forward(variables, x)[0])
    with _without_source_lines():
        serialized = export.export(program, platforms=PLATFORMS)(example).serialize()
    short = {name: value for name, value in about.items() if name != LAYERS}
    content = bytes(serialized) + _MARK + json.dumps(short).encode()
    return with_digest(content)


def from_stablehlo(path: Path) -> Program:
    """Reads a program.

    Raises:
      InputError: for a file that is damaged or no such program.
    """
    _needs_flatbuffers()
    content = without_digest(path)
    try:
        program, _, about = content.rpartition(_MARK)
        return Program(export.deserialize(bytearray(program)), json.loads(about))
    except Exception as error:  # of a program of another version of JAX, say
        raise InputError(
            f"{path} is no readable StableHLO program ({type(error).__name__}: {error})"
        ) from error

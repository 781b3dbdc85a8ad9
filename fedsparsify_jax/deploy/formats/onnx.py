"""ONNX files: written by ``onnx``, run by ``onnxruntime``."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from fedsparsify_jax.deploy.formats.digests import (
    LENGTH,
    with_digest,
    without_digest,
)
from fedsparsify_jax.deploy.formats.onnx_graph import to_onnx as graph_to_onnx
from fedsparsify_jax.deploy.saved import LAYERS, SavedModel, graph_of
from fedsparsify_jax.errors import InputError

ABOUT = "fedsparsify"
"""The property of an ONNX model that holds the description, as JSON."""
_DIGEST = b"fedsparsify_digest"
"""The property that holds the digest of everything before it; it is the last one."""
_ENTRY = b"\x0a" + bytes([len(_DIGEST)]) + _DIGEST + b"\x12" + bytes([LENGTH])
# In protobuf a message and further fields of it, one after the other, are one message:
# here field 14 of a model, a property, which is a key and a value.
_BEFORE = b"\x72" + bytes([len(_ENTRY) + LENGTH]) + _ENTRY


def to_onnx(saved: SavedModel, *, dense: bool = False) -> bytes:
    """Returns the ONNX file of a model: ``input [batch, ...]`` to ``output``.

    Args:
      saved: the model.
      dense: store zeros too, for engines that read no sparse initialisers.

    Raises:
      InputError: for a model without an ONNX form, or without the package ``onnx``.
    """
    about = {name: value for name, value in saved.about.items() if name != LAYERS}
    metadata = {ABOUT: json.dumps(about)}
    content = graph_to_onnx(graph_of(saved), sparse=not dense, metadata=metadata)
    return with_digest(content, _BEFORE)


def content_of(path: Path) -> bytes:
    """Reads the model of an ONNX file of this library, without its digest.

    Raises:
      InputError: for any other file.
    """
    return without_digest(path, _BEFORE)


def from_onnx(path: Path) -> Any:
    """Returns an onnxruntime session.

    Raises:
      InputError: for a file that is damaged or not of such a model.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "running ONNX files needs onnxruntime: pip install 'fedsparsify_jax[onnx]'"
        ) from None
    content = content_of(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints some of them too
            session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        (example,), (outputs,) = session.get_inputs(), session.get_outputs()
        if len(example.shape) < 2 or len(outputs.shape) != 2:
            raise ValueError("it maps no batch of examples to outputs")
        description(session)
    except Exception as error:  # onnxruntime has a kind of its own for each
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is no readable ONNX model ({reason})") from error
    return session


def description(session: Any) -> dict[str, Any]:
    """Returns the description that a session's model carries, empty without one.

    Raises:
      ValueError: for one that is damaged.
    """
    properties = session.get_modelmeta().custom_metadata_map
    about = json.loads(properties.get(ABOUT, "{}"))
    if not isinstance(about, dict):
        raise ValueError("its description is no JSON object")
    return about

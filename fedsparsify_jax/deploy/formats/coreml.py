"""Core ML packages: ML programs whose sparse weights are stored as bitmasks.

A package is a directory that ``coremltools`` writes and Apple's devices run. Pruned
weights are operations ``constexpr_sparse_to_dense``: a bit for every entry, and the
values where it is 1 (https://apple.github.io/coremltools, MIL operations of iOS 16).
"""

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedsparsify_jax.deploy.formats.coreml_graph import program_of
from fedsparsify_jax.deploy.saved import LAYERS, SavedModel, graph_of
from fedsparsify_jax.errors import InputError

ABOUT = "fedsparsify"
"""The entry of a package's user-defined metadata that holds the description."""


def needs_coremltools() -> Any:
    """Returns the package ``coremltools``.

    Raises:
      InputError: with the command that installs it.
    """
    with _quiet():
        try:
            import coremltools
            import coremltools.converters.mil
        except ImportError:
            raise InputError(
                "Core ML packages need coremltools: pip install "
                "'fedsparsify_jax[coreml]'"
            ) from None
    return coremltools


def to_coreml(saved: SavedModel, *, dense: bool = False) -> dict[str, bytes]:
    """Returns the files of a package by path: ``input [1, ...]`` to ``output [1, C]``.

    Args:
      saved: the model. Integers come as int32, for Core ML has no smaller ones here.
      dense: store zeros too.

    Raises:
      InputError: for a model without a Core ML form, or without ``coremltools``.
    """
    tools = needs_coremltools()
    about = {name: value for name, value in saved.about.items() if name != LAYERS}
    program = program_of(tools, graph_of(saved), sparse=not dense)
    with tempfile.TemporaryDirectory() as directory, _quiet():
        package = Path(directory) / "model.mlpackage"
        model = tools.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=tools.target.iOS16,
            compute_precision=tools.precision.FLOAT32,
            pass_pipeline=tools.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        model.author = "fedsparsify_jax"
        model.user_defined_metadata[ABOUT] = json.dumps(about)
        model.save(str(package))
        return {
            str(path.relative_to(package)): path.read_bytes()
            for path in sorted(package.rglob("*"))
            if path.is_file()
        }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to errors what coremltools says of progress and of other systems' parts."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)

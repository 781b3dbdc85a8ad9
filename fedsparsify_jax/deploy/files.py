"""Model files by their names' endings: written in one step, and read."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from fedsparsify_jax.deploy.formats.npz import from_npz, to_npz
from fedsparsify_jax.deploy.formats.onnx import to_onnx
from fedsparsify_jax.deploy.formats.sparse import from_safetensors, to_safetensors
from fedsparsify_jax.deploy.formats.stablehlo import to_stablehlo
from fedsparsify_jax.deploy.saved import SavedModel, compacted
from fedsparsify_jax.errors import InputError, shown, unknown

FORMATS = ("safetensors", "npz", "stablehlo", "onnx")
"""Formats of model files; each is the ending of its files' names too."""
PACKAGE = ".mlpackage"
"""The ending of Core ML packages, which are directories: see `deploy.packages`."""

_LOADERS: dict[str, Callable[[Path], SavedModel]] = {
    "safetensors": from_safetensors,
    "npz": from_npz,
}


def encode(
    saved: SavedModel, format: str, *, compact: bool = False, dense: bool = False
) -> bytes:
    """Returns the content of a model file.

    Args:
      saved: the model.
      format: one of `FORMATS`.
      compact: remove units that are dead, see `graph.compaction`.
      dense: store zeros too, in ONNX files.

    Raises:
      InputError: for a model that has no such form, or a package that is missing.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if dense and format != "onnx":
        raise InputError("dense is for the format onnx: leave it out")
    saved = compacted(saved) if compact else saved
    if format == "onnx":
        return to_onnx(saved, dense=dense)
    writers = {"safetensors": to_safetensors, "npz": to_npz, "stablehlo": to_stablehlo}
    return writers[format](saved)


def save(
    path: Path | str, saved: SavedModel, *, compact: bool = False, dense: bool = False
) -> Path:
    """Writes a model file, all of it or nothing, in the format of its ending.

    Args:
      path: ends in one of `FORMATS`; a file of that name is replaced.
      saved: see `saved.saved_model`.
      compact: see `encode`.
      dense: see `encode`.

    Raises:
      InputError: for another ending, a directory that cannot be written, or a model
        that has no such form.
    """
    path = Path(path)
    format = format_of(path)
    check_writable(path)
    write(path, encode(saved, format, compact=compact, dense=dense))
    return path


def load(path: Path | str) -> SavedModel:
    """Reads a safetensors or npz model file: variables, masks, and the network.

    Args:
      path: what `save` or ``fedsparsify export`` wrote.

    Raises:
      InputError: for a file that is missing, damaged, of another version, or holds a
        program and no variables.

    Example:
      >>> import jax, tempfile
      >>> from fedsparsify_jax.deploy import saved_model
      >>> about = {"model": "mlp", "input_shape": [4], "num_classes": 2}
      >>> from fedsparsify_jax import models
      >>> model = models.build("mlp", input_shape=(4,), num_classes=2)
      >>> one = saved_model(model.init(jax.random.key(0)), about)
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     same = load(save(f"{directory}/model.safetensors", one))
      >>> same.about["model"], same.variables["params"]["Dense_0"]["kernel"].shape
      ('mlp', (4, 128))
    """
    path = Path(path)
    loader = _LOADERS.get(format_of(path))
    check_there(path)
    if loader is None:
        raise InputError(
            f"{path} holds a program and no variables: name a file that ends in "
            ".safetensors or .npz"
        )
    return loader(path)


def format_of(path: Path) -> str:
    """Returns the format that the ending of a name stands for.

    Raises:
      InputError: if it stands for none.
    """
    if path.suffix == PACKAGE:
        raise InputError(
            f"{shown(path)} is a Core ML package: fedsparsify export and "
            "deploy.packages write those, Apple's systems run them, nothing here does"
        )
    format = path.suffix.removeprefix(".")
    if format not in FORMATS:
        endings = ", ".join(f".{name}" for name in FORMATS)
        raise InputError(f"{shown(path)} is no model file: it must end in {endings}")
    return format


def check_there(path: Path) -> None:
    """Checks that there is a file.

    Raises:
      InputError: if there is none.
    """
    if not path.is_file():
        raise InputError(f"no file {path}")


def check_writable(path: Path) -> None:
    """Checks, before any work, that a file can be written.

    Raises:
      InputError: with the reason.
    """
    parent = path.absolute().parent
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a directory")
    if not parent.is_dir():
        raise InputError(f"cannot write {path}: there is no directory {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: no permission to write in {parent}")


def write(path: Path, content: bytes) -> None:
    """Writes a file in one step: a kill leaves the old one or all of the new.

    Raises:
      InputError: if it cannot be written; no part of it stays.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with _removed_on_failure(partial):
            with partial.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


@contextlib.contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise

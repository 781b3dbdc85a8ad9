"""``fedsparsify export``: the model of a run as one file, for wherever it is to run."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np

from fedsparsify_jax import trees
from fedsparsify_jax.deploy import SavedModel, files, packages
from fedsparsify_jax.deploy.saved import compacted
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.model_commands.source import model_of_run, only
from fedsparsify_jax.runner.options.schema import POSITIONAL, Shown, check

DIRECTORY = "export"
"""The directory of a run that its exported files go to."""
_ENDINGS = {"coreml": files.PACKAGE}
"""Endings of formats whose files are not called by them."""


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Write the model of a finished run as one file.

    safetensors stores what is left of a sparse model and nothing else, npz is for
    NumPy, stablehlo is a program of JAX, coreml a package for Apple's systems, onnx is
    for all other runtimes.
    """

    run: Annotated[tuple[Path, ...], POSITIONAL, Shown("RUN", hint="a directory")] = ()
    """Directory of a finished run."""
    format: Annotated[
        Literal["safetensors", "npz", "stablehlo", "onnx", "coreml"] | None,
        Shown(hint="default: the ending of --out, or safetensors"),
    ] = None
    """Format of the file: safetensors, npz, stablehlo, onnx, coreml."""
    level: Annotated[str | None, Shown("SPARSITY", hint="default: the densest")] = None
    """Which of the models to write that slimmable training made, such as 0.95."""
    compact: bool = False
    """Remove dead units, channels and inputs: a smaller network, the same outputs."""
    dense: bool = False
    """Store zeros too, for engines that read no sparse weights; of onnx, coreml."""
    out: Annotated[
        Path | None,
        Shown("PATH", hint="default: export/model.FORMAT in the run", short="-o"),
    ] = None
    """File to write; its name ends in the format, in .mlpackage for coreml."""


def export(config: ExportConfig) -> Path:
    """Writes the model of a run and prints how large the file is.

    Args:
      config: the run, the format, and the file.

    Returns:
      The file that was written.

    Raises:
      InputError: one line that says what is wrong: a run that is not finished, a
        model without such a form, a file that cannot be written, a missing package.
    """
    config = dataclasses.replace(config, **check(config))
    run = only(config.run, "run", "export")
    name = "model" if config.level is None else f"model-{config.level}"
    name += "-compact" if config.compact else ""
    ending = _ENDINGS.get(config.format or "", f".{config.format or 'safetensors'}")
    path = config.out or run / DIRECTORY / f"{name}{ending}"
    is_package = path.suffix == files.PACKAGE
    format = "coreml" if is_package else files.format_of(path)
    if format != (config.format or format):
        raise InputError(f"--out is {path}: its name must end in {ending}")
    if config.dense and format not in ("onnx", "coreml"):
        raise InputError("--dense goes with --format onnx: leave it out")
    saved = model_of_run(run, config.level)
    with _made(path.parent if config.out is None else None):
        smaller, size = _written(path, saved, format, config)
    for line in _described(path, size, saved, smaller):
        print(line)
    return path


def _written(
    path: Path, saved: SavedModel, format: str, config: ExportConfig
) -> tuple[SavedModel, int]:
    """Writes a file or a package; returns the model that is in it, and its bytes."""
    check = packages.check_package if format == "coreml" else files.check_writable
    check(path)
    smaller = compacted(saved) if config.compact else saved
    if format == "coreml":
        packages.save_coreml(path, smaller, dense=config.dense)
        parts = [part for part in path.rglob("*") if part.is_file()]
        return smaller, sum(part.stat().st_size for part in parts)
    content = files.encode(smaller, format, dense=config.dense)
    files.write(path, content)
    return smaller, len(content)


@contextlib.contextmanager
def _made(directory: Path | None) -> Iterator[None]:
    """Makes a directory; if nothing comes of it, takes it away again."""
    if directory is None or directory.exists():
        yield
        return
    try:
        directory.mkdir()
    except OSError as error:
        raise InputError(f"cannot write {directory}: {error.strerror}") from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            directory.rmdir()
        raise


def _described(
    path: Path, size: int, saved: SavedModel, smaller: SavedModel
) -> list[str]:
    """Returns what to say of a file."""
    before, after = trees.size(saved.variables), trees.size(smaller.variables)
    kept = sum(
        int(np.count_nonzero(leaf))
        for leaf in jax.tree.leaves(smaller.variables)
        if leaf.dtype.kind == "f"
    )
    lines = [f"{path}: {size:,} bytes, {size / (4 * before):.3f} x the dense numbers"]
    if after != before:
        lines.append(f"{before:,} numbers became {after:,} without dead units")
    return [*lines, f"{kept:,} weights are not zero"]

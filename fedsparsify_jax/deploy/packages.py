"""Core ML packages, which are directories: written whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from fedsparsify_jax.deploy.files import PACKAGE, check_writable
from fedsparsify_jax.deploy.formats.coreml import to_coreml
from fedsparsify_jax.deploy.saved import SavedModel
from fedsparsify_jax.errors import InputError, shown


def save_coreml(path: Path | str, saved: SavedModel, *, dense: bool = False) -> Path:
    """Writes a model as a Core ML package.

    Args:
      path: ends in ``.mlpackage``; a package of that name is replaced.
      saved: see `saved.saved_model`; compact it first if it shall be.
      dense: store zeros too.

    Raises:
      InputError: for another ending, a place that cannot be written, a model without
        such a form, or without the package ``coremltools``.
    """
    path = Path(path)
    check_package(path)
    write_package(path, to_coreml(saved, dense=dense))
    return path


def check_package(path: Path) -> None:
    """Checks, before any work, that a package can be written.

    Raises:
      InputError: with the reason.
    """
    if path.suffix != PACKAGE:
        raise InputError(
            f"{shown(path)} is no Core ML package: it must end in {PACKAGE}"
        )
    is_package = (path / "Manifest.json").is_file()
    if path.exists() and not is_package:
        raise InputError(f"cannot write {path}: it is there and no package")
    check_writable(path.with_name(f".{path.name}"))


def write_package(path: Path, content: Mapping[str, bytes]) -> None:
    """Writes a directory of files beside its place, then moves it there.

    Between two renames an old package is away for a moment: no system replaces a
    directory that is not empty. A kill just then leaves it under a hidden name.

    Args:
      path: the directory.
      content: by path inside.

    Raises:
      InputError: if it cannot be written; an old one stays, and no part of the new.
    """
    token = secrets.token_hex(4)
    partial = path.with_name(f".{path.name}.{token}.partial")
    old = path.with_name(f".{path.name}.{token}.old")
    try:
        for name, part in content.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            with (partial / name).open("xb") as file:
                file.write(part)
                file.flush()
                os.fsync(file.fileno())
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(old, ignore_errors=True)

"""Models of finished runs and of files, as the words of a command name them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsparsify_jax import deploy
from fedsparsify_jax.deploy.files import PACKAGE, format_of
from fedsparsify_jax.deploy.running import of_saved
from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import from_json
from fedsparsify_jax.runner.storage import run_directory
from fedsparsify_jax.runner.storage.model_files import ARRAYS, load_model
from fedsparsify_jax.runner.storage.run_directory import RunDirectory, read_json
from fedsparsify_jax.runner.storage.sweep_directory import SWEEP


def only(paths: tuple[Path, ...], what: str, command: str) -> Path:
    """Returns the one path that a command was given.

    Raises:
      InputError: for none, or several.
    """
    if len(paths) != 1:
        number = counted(len(paths), "path") if paths else "none"
        raise InputError(f"{command} takes one {what}: got {number}")
    return paths[0]


def model_of_run(path: Path, level: str | None = None) -> deploy.SavedModel:
    """Returns the model of a finished run.

    Args:
      path: of the run.
      level: of several models that were trained at once; None for the run's own.

    Raises:
      InputError: for a directory that is no run, or a run that is not finished, or has
        no such level.
    """
    directory = RunDirectory(path)
    if path.suffix == PACKAGE:
        format_of(path)  # says what such a directory is
    if not path.is_dir():
        raise InputError(f"no directory {path}: name the directory of a run")
    if (path / SWEEP).is_file():
        raise InputError(f"{path} is a sweep: name the directory of one of its runs")
    if read_json(path / "config.json") is None:
        raise InputError(f"{path} is no run: it has no readable config.json")
    summary = read_json(path / "summary.json")
    if summary is None or not (directory.model / ARRAYS).is_file():
        raise InputError(
            f"the run {path} is not finished, so it has no model yet: go on with it by "
            "its command line and --resume"
        )
    levels = list(summary.get("levels", {}))
    if level is not None and level not in levels:
        there = f"it has {', '.join(levels)}" if levels else "it has one model"
        raise InputError(f"the run {path} has no level {level}: {there}")
    place = directory.model if level is None else directory.level(level)
    variables, about = load_model(place)
    try:
        return deploy.saved_model(variables, about)
    except InputError as error:
        raise InputError(f"the model of the run {path} is damaged: {error}") from error


def recorded_of(path: Path) -> Mapping[str, Any]:
    """Returns what a run wrote of itself when it started.

    Raises:
      InputError: if it cannot be read.
    """
    recorded = run_directory.read(path).recorded
    if recorded is None:
        raise InputError(f"the config.json of the run {path} is damaged")
    return recorded


def trained_with(path: Path) -> TrainConfig:
    """Returns the options of a run.

    Raises:
      InputError: if they cannot be read.
    """
    return from_json(recorded_of(path)["options"], f"the run {path}")


def runnable(path: Path) -> deploy.Runnable:
    """Returns the model of a file, or of a run, as a function.

    Raises:
      InputError: see `deploy.runnable` and `model_of_run`.
    """
    return of_saved(model_of_run(path)) if path.is_dir() else deploy.runnable(path)

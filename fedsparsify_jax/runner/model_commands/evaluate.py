"""``fedsparsify evaluate``: loss and accuracy of a model on a test set."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import data
from fedsparsify_jax.deploy import Runnable, running
from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.runner.model_commands.source import only, runnable, trained_with
from fedsparsify_jax.runner.options.grammars import DATA_SET, data_set
from fedsparsify_jax.runner.options.rules import at_least
from fedsparsify_jax.runner.options.schema import POSITIONAL, Shown, check
from fedsparsify_jax.runner.programs import federation
from fedsparsify_jax.training.losses import TASKS


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Compute the loss and the accuracy of a model on the test set of a data set."""

    file: Annotated[
        tuple[Path, ...], POSITIONAL, Shown("FILE_OR_RUN", hint="a model file or a run")
    ] = ()
    """Model file of any format, or directory of a finished run."""
    dataset: Annotated[
        str | None, DATA_SET, Shown(hint="default: the one it was trained on")
    ] = None
    """Data set."""
    data_dir: Path | None = None
    """Where the data set's files are, or your npz."""
    batch_size: Annotated[int, at_least(1)] = 1000
    """Examples computed at a time."""
    json: bool = False
    """Print a JSON object in place of text."""


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Prints the measures of a model on a test set and returns them.

    Raises:
      InputError: one line that says what is wrong with the file or the data set, or
        that they do not go together.
    """
    config = dataclasses.replace(config, **check(config))
    path = only(config.file, "model file or run", "evaluate")
    model = runnable(path)
    dataset = _data_set(path, config, model)
    x = running.check_inputs(model, dataset.test.x, f"the test set of {dataset.name!r}")
    if dataset.num_classes > model.outputs:
        raise InputError(
            f"the model has {counted(model.outputs, 'output')}, {dataset.name!r} has "
            f"{dataset.num_classes} classes"
        )
    outputs = running.batched(model, x, config.batch_size)
    task, y = TASKS[dataset.task], jnp.asarray(dataset.test.y)
    result = {
        "dataset": dataset.name,
        "examples": len(x),
        "test_loss": float(np.mean(task.loss_fn(jnp.asarray(outputs), y))),
        f"test_{task.metric}": float(np.mean(task.metric_fn(jnp.asarray(outputs), y))),
    }
    print(json.dumps(result, indent=2) if config.json else _described(result))
    return result


def _data_set(path: Path, config: EvaluateConfig, model: Runnable) -> data.Dataset:
    """Returns the data set to evaluate on; a run's own is divided as the run had it."""
    trained = trained_with(path) if path.is_dir() else None
    if trained is None or config.dataset not in (None, trained.dataset):
        return data.load(_name(config.dataset, model), config.data_dir)
    if config.data_dir is not None:
        trained = dataclasses.replace(trained, data_dir=config.data_dir)
    return federation.load(trained)


def _name(given: str | None, model: Runnable) -> str:
    """Returns the name of the data set, by default the one that a model knows."""
    name = given or model.about.get("dataset")
    if not isinstance(name, str):
        raise InputError("evaluate needs --dataset: this file names none")
    if given is not None:
        return given
    try:
        return data_set(name)
    except InputError:
        raise InputError(
            f"evaluate needs --dataset: the model was trained on {name!r}, which is no "
            "name of a data set"
        ) from None


def _described(result: dict[str, Any]) -> str:
    """Returns the result of `evaluate` as plain text."""
    lines = [f"{result['dataset']}: {counted(result['examples'], 'test example')}"]
    if "test_accuracy" in result:
        lines.append(f"test accuracy    {result['test_accuracy']:.2%}")
    if "test_mae" in result:
        lines.append(f"test error       {result['test_mae']:.4f} (mean absolute)")
    return "\n".join([*lines, f"test loss        {result['test_loss']:.4f}"])

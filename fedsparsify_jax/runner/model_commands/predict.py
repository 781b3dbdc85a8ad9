"""``fedsparsify predict``: what a model answers to new examples."""

import dataclasses
import io
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np

from fedsparsify_jax.deploy import files, running
from fedsparsify_jax.deploy.formats.npz import read_arrays
from fedsparsify_jax.errors import InputError, counted, shown
from fedsparsify_jax.runner.model_commands.source import only, runnable
from fedsparsify_jax.runner.options.rules import at_least
from fedsparsify_jax.runner.options.schema import POSITIONAL, Shown, check

_MOST, _QUOTES = 10, "'\""  # labels that are counted aloud, without the quotes
INPUTS = "x"
"""The array of examples in a file of data."""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Run a model on new examples and write its predictions.

    The result is an npz file: outputs, one row an example, and for a classification
    classes, the largest output of each, and labels, what the data called them.
    """

    file: Annotated[
        tuple[Path, ...], POSITIONAL, Shown("FILE_OR_RUN", hint="a model file or a run")
    ] = ()
    """Model file of any format, or directory of a finished run."""
    data: Annotated[Path | None, Shown("FILE.npz", hint="required")] = None
    """Examples: an array x of raw inputs, as the data set has them."""
    out: Annotated[Path, Shown("PATH", hint="default: predictions.npz", short="-o")] = (
        Path("predictions.npz")
    )
    """File to write."""
    batch_size: Annotated[int, at_least(1)] = 1000
    """Examples computed at a time."""


def predict(config: PredictConfig) -> Path:
    """Writes the predictions for the examples of a file.

    Returns:
      The file that was written.

    Raises:
      InputError: one line that says what is wrong with a file.
    """
    config = dataclasses.replace(config, **check(config))
    path = only(config.file, "model file or run", "predict")
    if config.data is None:
        raise InputError("predict needs --data FILE.npz, with an array x of examples")
    if config.out.suffix != ".npz":
        raise InputError(f"--out is {config.out}: its name must end in .npz")
    files.check_writable(config.out)
    model = runnable(path)
    x = running.check_inputs(model, _examples(config.data), str(config.data))
    outputs = running.batched(model, x, config.batch_size)
    result = {"outputs": outputs}
    is_class = model.about.get("task", "classification") == "classification"
    if is_class and model.outputs > 1:
        result["classes"] = outputs.argmax(axis=-1).astype(np.int32)
        if names := model.about.get("labels"):
            result["labels"] = np.array(names)[result["classes"]]
    file = io.BytesIO()
    np.savez(file, **result)  # type: ignore[arg-type]
    files.write(config.out, file.getvalue())
    print(f"predictions of {counted(len(x), 'example')}: {config.out}")
    if "labels" in result:
        print(_tally(result["labels"]))
    return config.out


def _tally(labels: np.ndarray) -> str:
    """Returns how often labels were predicted, the most frequent first.

    >>> _tally(np.array(["flu", "cold", "flu"]))
    'flu 2, cold 1'
    """
    found = Counter(labels.tolist()).most_common(_MOST + 1)
    words = [f"{shown(label).strip(_QUOTES)} {times:,}" for label, times in found]
    return ", ".join(words[:_MOST] + ["..."] * (len(words) > _MOST))


def _examples(path: Path) -> np.ndarray:
    """Reads the array of examples from an npz file."""
    if not path.is_file():
        raise InputError(f"no file {path}")
    arrays = read_arrays(path)
    if INPUTS not in arrays:
        raise InputError(
            f"{path} has no array {INPUTS}: write one with "
            f"numpy.savez({str(path)!r}, {INPUTS}=...)"
        )
    return arrays[INPUTS]

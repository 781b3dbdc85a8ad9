"""Model files of any format as functions of raw inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.deploy.files import check_there, format_of, load
from fedsparsify_jax.deploy.formats.onnx import description, from_onnx
from fedsparsify_jax.deploy.formats.stablehlo import from_stablehlo
from fedsparsify_jax.deploy.saved import SavedModel
from fedsparsify_jax.errors import InputError

_DTYPES = (
    "float16",
    "float32",
    "float64",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
)
"""Dtypes of inputs that a program may ask for."""


class Runnable(NamedTuple):
    """A model file as a function.

    Attributes:
      run: raw inputs ``[B, ...]`` of that shape and dtype to outputs ``[B, C]``.
      input_shape: of one example.
      dtype: of the raw inputs.
      outputs: C.
      about: the model's description, empty in programs that keep none.
    """

    run: Callable[[np.ndarray], np.ndarray]
    input_shape: tuple[int, ...]
    dtype: np.dtype
    outputs: int
    about: dict[str, Any]


def runnable(path: Path | str) -> Runnable:
    """Reads a model file of any format as a function.

    Raises:
      InputError: see `load`; or for a package that is missing.
    """
    path = Path(path)
    format = format_of(path)
    check_there(path)
    if format == "onnx":
        return _of_session(path)
    if format == "stablehlo":
        exported, about = from_stablehlo(path)
        (example,), (outputs,) = exported.in_avals, exported.out_avals
        return Runnable(
            run=lambda x: np.asarray(exported.call(jnp.asarray(x))),
            input_shape=tuple(example.shape[1:]),
            dtype=np.dtype(example.dtype),
            outputs=outputs.shape[1],
            about=about,
        )
    return of_saved(load(path))


def of_saved(saved: SavedModel) -> Runnable:
    """Returns a model as a function of raw inputs."""
    variables = jax.tree.map(jnp.asarray, saved.variables)
    forward = jax.jit(lambda x: saved.model.apply(variables, x)[0])
    return Runnable(
        run=lambda x: np.asarray(forward(x)),
        input_shape=tuple(saved.about["input_shape"]),
        dtype=np.dtype(saved.about["input_dtype"]),
        outputs=saved.about["num_classes"],
        about=saved.about,
    )


def _of_session(path: Path) -> Runnable:
    session = from_onnx(path)
    (example,), (outputs,) = session.get_inputs(), session.get_outputs()
    (_, *shape), (_, width) = example.shape, outputs.shape
    sizes = [*shape, width]
    if not all(isinstance(size, int) for size in sizes):
        raise InputError(f"{path} has inputs or outputs of no fixed shape")
    kind = example.type.removeprefix("tensor(").removesuffix(")")
    kind = {"float": "float32", "double": "float64"}.get(kind, kind)
    if kind not in _DTYPES:
        raise InputError(f"{path} takes inputs of {kind}: expected numbers")
    return Runnable(
        run=lambda x: np.asarray(session.run(None, {example.name: x})[0]),
        input_shape=tuple(shape),
        dtype=np.dtype(kind),
        outputs=width,
        about=description(session),
    )


def check_inputs(model: Runnable, x: Any, where: str) -> np.ndarray:
    """Returns raw inputs in the dtype that a model takes.

    Args:
      model: what they are for.
      x: ``[n, ...]`` numbers.
      where: they come from, for errors.

    Raises:
      InputError: for another shape, for NaN, or numbers that the dtype cannot hold.
    """
    x = np.asarray(x)
    if x.shape[1:] != model.input_shape or x.ndim == 0 or not len(x):
        raise InputError(
            f"{where} has shape {x.shape}: the model takes examples of shape "
            f"{model.input_shape}"
        )
    if x.dtype.kind not in "iuf":
        raise InputError(f"{where} has dtype {x.dtype}: expected numbers")
    with np.errstate(invalid="ignore", over="ignore"):
        cast = x.astype(model.dtype)
    exact = model.dtype.kind != "f" and not np.array_equal(cast, x)
    if exact or not np.isfinite(cast).all():
        raise InputError(
            f"{where} has numbers that {model.dtype} cannot hold: give the model raw "
            "inputs, as the data set has them"
        )
    return cast


def batched(model: Runnable, x: np.ndarray, batch_size: int = 1000) -> np.ndarray:
    """Runs a model over many examples, some at a time: outputs ``[n, C]``.

    Raises:
      InputError: if the model, which may come from anywhere, cannot be run.
    """
    starts = range(0, len(x), batch_size)
    try:
        outputs = [model.run(x[n : n + batch_size]) for n in starts]
        return np.concatenate(outputs).reshape(len(x), model.outputs)
    except Exception as error:  # every runtime has kinds of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"the model cannot be run ({reason})") from error

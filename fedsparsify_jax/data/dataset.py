"""Data sets as every source gives them, with the checks that all of them pass."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from fedsparsify_jax.data.labels import Labels
from fedsparsify_jax.data.normalization import Normalization as Normalization
from fedsparsify_jax.data.owners import Owners
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import Examples, Key

Task = Literal["classification", "regression"]
Augment = Callable[[Key, jax.Array], jax.Array]
"""Key and raw inputs ``[B, ...]`` to changed inputs of the same shape and dtype."""

MOST_CLASSES = 2**20
"""A network has an output a class; more are a column that holds no classes."""
_CHUNK = 1024  # examples checked at once
_INT32 = np.iinfo(np.int32)


class Dataset(NamedTuple):
    """A supervised task with a central test set.

    Attributes:
      name: in logs.
      train: examples that are divided among the clients; host arrays in the source's
        dtype.
      test: examples that the global model is evaluated on.
      num_classes: C; labels are int32 in ``0 .. C - 1``. It is 1 in regression, the
        length of the model's output, and targets are float32.
      normalization: raw inputs to what a network sees.
      task: ``"classification"`` or ``"regression"``.
      augment: what training batches of this source are usually augmented with, on raw
        inputs ``(key, x [B, ...]) -> x``; None if nothing. The data set only offers it.
      validation: what choices are made on, see `validation.hold_out`; None without one.
      owners: the clients that examples come from, where the source names them.
      labels: what the source calls the classes, where that is not their number.
      notes: sentences about how the source was read.
      characters: of texts whose inputs are numbers of characters, from 2 on; 0 is
        padding and 1 any other.
      words: the same for texts whose inputs are numbers of words.
    """

    name: str
    train: Examples
    test: Examples
    num_classes: int
    normalization: Normalization
    task: Task = "classification"
    augment: Augment | None = None
    validation: Examples | None = None
    owners: Owners | None = None
    labels: Labels | None = None
    notes: tuple[str, ...] = ()
    characters: str | None = None
    words: tuple[str, ...] | None = None


def with_rows(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """Returns a data set with some of its training examples, and their owners.

    >>> toy = from_arrays("toy", [[1], [2], [3]], [0, 1, 1], [[1]], [0])
    >>> with_rows(toy, np.array([2])).train.y.tolist()
    [1]
    """
    x, y = dataset.train
    owners = dataset.owners
    return dataset._replace(
        train=Examples(np.asarray(x)[rows], np.asarray(y)[rows]),
        owners=None if owners is None else owners._replace(train=owners.train[rows]),
    )


def _native_inputs(where: str, x: np.ndarray) -> np.ndarray:
    """Checks inputs; returns them in native byte order and a dtype that JAX takes."""
    if x.ndim < 2:
        raise InputError(
            f"{where} inputs have shape {x.shape}: expected [examples, features...]"
        )
    if 0 in x.shape[1:]:
        raise InputError(f"{where} examples are empty: they have shape {x.shape[1:]}")
    if x.dtype.kind not in "iuf":
        raise InputError(f"{where} inputs have dtype {x.dtype}: expected numbers")
    if x.dtype.kind != "f":
        return _native_integers(where, x)
    dtype = np.float16 if x.dtype.itemsize == 2 else np.float32
    with np.errstate(over="ignore"):
        x = x.astype(dtype, copy=False)
    # In chunks: the table of booleans for a set of brain scans takes gigabytes.
    starts = range(0, len(x), _CHUNK)
    if not all(np.isfinite(x[start : start + _CHUNK]).all() for start in starts):
        raise InputError(f"{where} inputs hold NaN or infinity: clean them first")
    return x


def _native_integers(where: str, x: np.ndarray) -> np.ndarray:
    if x.dtype.itemsize < 8:
        return x.astype(x.dtype.newbyteorder("="), copy=False)
    # JAX has 32 bits unless told otherwise, and would wrap around in silence.
    if x.size and (x.min() < _INT32.min or x.max() > _INT32.max):
        raise InputError(f"{where} inputs exceed 32-bit integers: scale them first")
    return x.astype(np.int32)


def _check_kind(where: str, y: np.ndarray, num_examples: int, task: Task) -> None:
    names = {"classification": ("labels", "iu", "integers")}
    what, kinds, expected = names.get(task, ("targets", "iuf", "numbers"))
    if y.shape != (num_examples,):
        raise InputError(
            f"{where} {what} have shape {y.shape} for {num_examples} examples: "
            f"expected [{num_examples}]"
        )
    if y.dtype.kind not in kinds:
        raise InputError(f"{where} {what} have dtype {y.dtype}: expected {expected}")
    if num_examples == 0:
        raise InputError(f"the {where} set is empty")


def _check_labels(where: str, y: np.ndarray) -> None:
    if y.min() < 0:
        raise InputError(f"{where} labels go down to {y.min()}: expected 0, 1, 2, ...")
    if y.max() >= MOST_CLASSES:
        raise InputError(
            f"{where} labels go up to {y.max()}: expected 0, 1, 2, ... below "
            f"{MOST_CLASSES:,}"
        )


def checked_examples(where: str, x: Any, y: Any, task: Task) -> Examples:
    """Checks one part of the data and returns it in the library's dtypes.

    Args:
      where: whose they are, for errors.
      x: ``[n, ...]``, see `from_arrays`.
      y: ``[n]``.
      task: ``"classification"`` or ``"regression"``.

    Raises:
      InputError: see `from_arrays`.
    """
    try:
        x, y = np.asarray(x), np.asarray(y)
    except (ValueError, TypeError) as error:  # lists of unequal lengths
        raise InputError(f"{where} examples are no arrays ({error})") from error
    x = _native_inputs(where, x)
    _check_kind(where, y, len(x), task)
    if task == "classification":
        _check_labels(where, y)
        return Examples(x, y.astype(np.int32))
    with np.errstate(over="ignore"):
        y = y.astype(np.float32)
    if not np.isfinite(y).all():
        raise InputError(f"{where} targets hold NaN or infinity: clean them first")
    return Examples(x, y)


def _classes(train: Examples, test: Examples, num_classes: int | None) -> int:
    largest = int(max(train.y.max(), test.y.max()))
    if num_classes is None:
        return largest + 1
    if largest >= num_classes:
        raise InputError(
            f"label {largest} found: with {num_classes} classes labels end at "
            f"{num_classes - 1}"
        )
    return num_classes


def from_arrays(
    name: str,
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    normalization: Normalization | None = None,
    num_classes: int | None = None,
    task: Task = "classification",
    augment: Augment | None = None,
) -> Dataset:
    """Makes a data set of the user's own arrays.

    Args:
      name: in logs.
      x_train: ``[n, ...]`` numbers; 64-bit integers become int32, other integers and
        float16 are kept, other floats become float32.
      y_train: ``[n]`` integer classes from 0; in regression ``[n]`` numbers.
      x_test: like ``x_train``.
      y_test: like ``y_train``.
      normalization: by default uint8 is divided by 255, anything else left alone.
      num_classes: C; by default the largest label plus one. 1 in regression.
      task: ``"classification"`` or ``"regression"``.
      augment: see `Dataset`.

    Raises:
      InputError: for shapes, dtypes or labels that cannot be, NaN and infinity.

    Example:
      >>> toy = from_arrays("toy", np.ones((4, 2)), [0, 1, 2, 0], np.ones((1, 2)), [1])
      >>> toy.num_classes, toy.train.x.dtype
      (3, dtype('float32'))
      >>> scans = np.ones((2, 3)), [61, 70.5], np.ones((1, 3)), [48]
      >>> ages = from_arrays("ages", *scans, task="regression")
      >>> ages.num_classes, ages.train.y.tolist()
      (1, [61.0, 70.5])
    """
    if task not in ("classification", "regression"):
        raise InputError(f"task is {task!r}: expected classification or regression")
    # Each half on its own, then both together.
    train = checked_examples("training", x_train, y_train, task)
    test = checked_examples("test", x_test, y_test, task)
    if train.x.shape[1:] != test.x.shape[1:]:
        raise InputError(
            f"training examples have shape {train.x.shape[1:]}, test examples "
            f"{test.x.shape[1:]}: they must be the same"
        )
    # The length of the model's output.
    if task == "classification":
        num_classes = _classes(train, test, num_classes)
    elif num_classes not in (None, 1):
        raise InputError(f"num_classes is {num_classes}: regression has 1 output")
    else:
        num_classes = 1
    if normalization is None:
        is_image = train.x.dtype == np.uint8
        normalization = Normalization(0.0, 255.0) if is_image else Normalization()
    return Dataset(
        name=name,
        train=train,
        test=test,
        num_classes=num_classes,
        normalization=normalization,
        task=task,
        augment=augment,
    )

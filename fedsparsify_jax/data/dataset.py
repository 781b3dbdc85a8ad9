"""What a data source hands over, checked."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import Examples

_INT32 = np.iinfo(np.int32)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """``(x - mean) / std``, done inside the jitted step on the source's raw numbers.

    >>> Normalization(0.0, 256.0)(jnp.array([128], jnp.uint8))
    Array([0.5], dtype=float32)
    """

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, x: jax.Array) -> jax.Array:
        """Raw inputs ``[B, ...]`` to float32 of the same shape."""
        return (x.astype(jnp.float32) - self.mean) / self.std


class Dataset(NamedTuple):
    """A classification task with a central test set.

    Attributes:
      name: what it is called in logs.
      train: what is divided among the clients; host arrays in the source's dtype.
      test: what the global model is evaluated on.
      num_classes: C; labels are in ``0 .. C - 1``.
      normalization: raw inputs to what a network sees.
    """

    name: str
    train: Examples
    test: Examples
    num_classes: int
    normalization: Normalization


def _native_inputs(where: str, x: np.ndarray) -> np.ndarray:
    """Checked inputs in this machine's byte order, floats as float32."""
    if x.ndim < 2:
        raise InputError(
            f"{where} inputs have shape {x.shape}: expected [examples, features...]"
        )
    if x.dtype.kind not in "iuf":
        raise InputError(f"{where} inputs have dtype {x.dtype}: expected numbers")
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise InputError(f"{where} inputs hold NaN or infinity: clean them first")
        return x
    if x.dtype.itemsize == 8:
        # JAX has 32 bits unless told otherwise, and would wrap around in silence.
        if x.size and (x.min() < _INT32.min or x.max() > _INT32.max):
            raise InputError(f"{where} inputs exceed 32-bit integers: scale them first")
        return x.astype(np.int32)
    return x.astype(x.dtype.newbyteorder("="))


def _check_labels(where: str, y: np.ndarray, num_examples: int) -> None:
    if y.shape != (num_examples,):
        raise InputError(
            f"{where} labels have shape {y.shape} for {num_examples} examples: "
            f"expected [{num_examples}]"
        )
    if y.dtype.kind not in "iu":
        raise InputError(f"{where} labels have dtype {y.dtype}: expected integers")
    if num_examples == 0:
        raise InputError(f"the {where} set is empty")
    if y.min() < 0:
        raise InputError(f"{where} labels go down to {y.min()}: expected 0, 1, 2, ...")
    if y.max() > _INT32.max:
        raise InputError(f"{where} labels go up to {y.max()}: expected 0, 1, 2, ...")


def from_arrays(
    name: str,
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    normalization: Normalization | None = None,
    num_classes: int | None = None,
) -> Dataset:
    """Makes a data set of the user's own arrays.

    Args:
      name: what to call it.
      x_train: ``[n, ...]`` numbers; integers are kept as they are, floats as
        float32, 64-bit integers as int32.
      y_train: ``[n]`` integer classes from 0.
      x_test: like ``x_train``.
      y_test: like ``y_train``.
      normalization: by default uint8 is divided by 255, anything else left alone.
      num_classes: C; by default the largest label plus one.

    Raises:
      InputError: for shapes, dtypes or labels that cannot be, NaN and infinity.

    Example:
      >>> made = from_arrays("toy", np.ones((4, 2)), [0, 1, 2, 0], np.ones((1, 2)), [1])
      >>> made.num_classes, made.train.x.dtype
      (3, dtype('float32'))
    """
    sets = {}
    for where, x, y in (("training", x_train, y_train), ("test", x_test, y_test)):
        x, y = np.asarray(x), np.asarray(y)
        x = _native_inputs(where, x)
        _check_labels(where, y, len(x))
        sets[where] = Examples(x, y.astype(np.int32))
    train, test = sets["training"], sets["test"]
    if train.x.shape[1:] != test.x.shape[1:]:
        raise InputError(
            f"training examples have shape {train.x.shape[1:]}, test examples "
            f"{test.x.shape[1:]}: they must be the same"
        )
    largest = int(max(train.y.max(), test.y.max()))
    if num_classes is None:
        num_classes = largest + 1
    if largest >= num_classes:
        raise InputError(
            f"label {largest} found: with {num_classes} classes labels end at "
            f"{num_classes - 1}"
        )
    if normalization is None:
        is_image = train.x.dtype == np.uint8
        normalization = Normalization(0.0, 255.0) if is_image else Normalization()
    return Dataset(name, train, test, num_classes, normalization)

"""Models as the engine trains them, and what all adapters have in common."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from fedsparsify_jax.errors import InputError, counted, shown
from fedsparsify_jax.types import ApplyFn, Key, Variables

Preprocess = Callable[[jax.Array], jax.Array]
"""Raw inputs ``[B, ...]`` to the network's inputs."""
Augment = Callable[[Key, jax.Array], jax.Array]
"""Random change of the raw inputs, ``[B, ...]`` to the same, in training only."""


class Model(NamedTuple):
    """A model as pure functions.

    Attributes:
      init: ``key -> variables``.
      apply: the forward pass, see `types.ApplyFn`:
        ``apply(variables, x, train=..., key=..., valid=...) -> (outputs, changed)``.
      sequential: whether every layer reads only the one before it, through functions
        of single units that map zero to zero; `training.compact` needs it. A linen
        module has a class attribute of this name.
      parts: models of the first block, of the first two, ..., each with a light head of
        its own, and last of all the model itself; () if it does not offer any. What
        they share has the same paths. The method ``first_blocks`` of a linen module
        returns the modules of all but the last.
    """

    init: Callable[[Key], Variables]
    apply: ApplyFn
    sequential: bool = False
    parts: "tuple[Model, ...]" = ()

    def seen_through(self, change: Callable[[ApplyFn], ApplyFn]) -> "Model":
        """Returns the model, and its parts, with changed forward passes."""
        parts = tuple(part.seen_through(change) for part in self.parts)
        return self._replace(apply=change(self.apply), parts=parts)


def prepare(
    x: jax.Array,
    key: Key | None,
    *,
    train: bool,
    preprocess: Preprocess | None,
    augment: Augment | None,
    dtype: DTypeLike = jnp.float32,
) -> tuple[jax.Array, Key | None]:
    """Prepares raw inputs for the network; returns them and the key that is left.

    Args:
      x: raw inputs ``[B, ...]``.
      key: randomness of the step, or None.
      train: whether to augment; nothing is augmented without a key either.
      preprocess: by default a conversion to ``dtype``.
      augment: gets one half of the key and the raw inputs.
      dtype: of the inputs where there is no ``preprocess``.
    """
    if augment is not None and train and key is not None:
        augment_key, key = jax.random.split(key)
        x = augment(augment_key, x)
    x = jnp.asarray(x, dtype) if preprocess is None else preprocess(x)
    return x, key


def checked_outputs(
    outputs: Any, x: Any, owner: str, *, otherwise: str = ""
) -> jax.Array:
    """Returns the outputs of a forward pass if they are one array ``[B, ...]``.

    Args:
      outputs: what the network or function returned.
      x: the raw inputs ``[B, ...]``.
      owner: name of the network or function, for the message.
      otherwise: what to do about outputs that are not one array.

    Raises:
      InputError: if they are something else, or have another first axis.

    Example:
      >>> checked_outputs(({}, jnp.ones(2)), jnp.ones((2, 3)), "module Net")
      Traceback (most recent call last):
      ...
      fedsparsify_jax.errors.InputError: module Net returned a tuple of 2: a forward \
pass must return one array of outputs [B, ...]
    """
    contract = "a forward pass must return one array of outputs [B, ...]"
    if not isinstance(outputs, jax.Array | np.ndarray):
        raise InputError(
            f"{owner} returned {described(outputs)}: {contract}{otherwise and ': '}"
            f"{otherwise}"
        )
    rows = np.shape(x)[:1]
    if outputs.shape[:1] != rows:
        examples = counted(rows[0], "example") if rows else "a single number"
        raise InputError(
            f"{owner} returned {described(outputs)} for {examples}: {contract}"
        )
    return jnp.asarray(outputs)


def described(value: Any) -> str:
    """Says in a few words what a function of the user's returned.

    >>> described((1, 2)), described({"a": 1}), described(None), described(jnp.ones(3))
    ('a tuple of 2', "a dict of 'a'", 'None', 'an array of shape (3,)')
    """
    if value is None:
        return "None"
    if isinstance(value, Mapping):
        keys = ", ".join(map(shown, value))
        return f"a dict of {keys}" if keys else "an empty dict"
    if isinstance(value, tuple | list):
        return f"a {'tuple' if isinstance(value, tuple) else 'list'} of {len(value)}"
    if isinstance(value, jax.Array | np.ndarray):
        return f"an array of shape {value.shape}"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"

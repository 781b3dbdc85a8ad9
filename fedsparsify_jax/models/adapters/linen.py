"""Models as the engine trains them: a pair of pure functions."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import LazyInitError
from jax.typing import DTypeLike

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
    """

    init: Callable[[Key], Variables]
    apply: ApplyFn
    sequential: bool = False


def accepted_flags(call: Callable[..., Any], **values: Any) -> dict[str, Any]:
    """Selects the keyword arguments that a network's ``__call__`` names."""
    names = inspect.signature(call).parameters
    return {name: value for name, value in values.items() if name in names}


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


def from_linen(
    module: nn.Module,
    input_shape: tuple[int, ...],
    *,
    preprocess: Preprocess | None = None,
    augment: Augment | None = None,
    input_dtype: DTypeLike = jnp.float32,
) -> Model:
    """Wraps a Flax linen module.

    The module is called with ``x`` and with those of ``train`` and ``valid`` that its
    ``__call__`` accepts. Randomness comes under the name ``dropout``; collections
    beside ``params`` (batch statistics) may change in training. ``nn.BatchNorm`` knows
    nothing of padded rows unless the module hands it ``valid`` as its mask;
    `batch_norm.BatchNorm` does.

    Args:
      module: the network, ``[B, ...]`` to outputs.
      input_shape: shape of one example, without the batch axis.
      preprocess: raw inputs to the network's; by default only a conversion to
        ``input_dtype``.
      augment: ``(key, x) -> x`` on raw inputs, in training steps only.
      input_dtype: of the network's inputs; an integer for tokens.

    Example:
      >>> model = from_linen(nn.Dense(2), (3,))
      >>> variables = model.init(jax.random.key(0))
      >>> outputs, changed = model.apply(variables, jnp.ones((5, 3), jnp.uint8))
      >>> outputs.shape, changed
      ((5, 2), {})
    """

    def init(key: Key) -> Variables:
        flags = accepted_flags(module.__call__, train=False)
        shape = (1, *input_shape)
        try:
            # Without the forward pass, which on a brain volume is most of the work.
            example = jax.ShapeDtypeStruct(shape, jnp.dtype(input_dtype))
            return dict(module.lazy_init(key, example, **flags))
        except LazyInitError:  # parameters that depend on the inputs
            return dict(module.init(key, jnp.zeros(shape, input_dtype), **flags))

    def apply(
        variables: Variables,
        x: jax.Array,
        *,
        train: bool = False,
        key: Key | None = None,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, Variables]:
        x, key = prepare(
            x,
            key,
            train=train,
            preprocess=preprocess,
            augment=augment,
            dtype=input_dtype,
        )
        # Batch statistics change in training only.
        mutable = [name for name in variables if name != "params"] if train else []
        outputs, changed = module.apply(
            variables,
            x,
            rngs=None if key is None else {"dropout": key},
            mutable=mutable,
            **accepted_flags(module.__call__, train=train, valid=valid),
        )
        return outputs, dict(changed)

    sequential = getattr(module, "sequential", False)
    return Model(init=init, apply=apply, sequential=sequential)


def from_functions(
    init_fn: Callable[[Key], Any], apply_fn: Callable[[Any, jax.Array], jax.Array]
) -> Model:
    """Wraps a plain pair of functions over a tree of parameters.

    Args:
      init_fn: ``key -> params``, any tree of arrays.
      apply_fn: ``(params, x) -> outputs``.

    Returns:
      A model whose variables are ``{"params": params}``.

    Example:
      >>> model = from_functions(lambda key: {"w": jax.random.normal(key, (3, 2))},
      ...                        lambda params, x: x @ params["w"])
      >>> outputs, _ = model.apply(model.init(jax.random.key(0)), jnp.ones((5, 3)))
      >>> outputs.shape
      (5, 2)
    """

    def init(key: Key) -> Variables:
        return {"params": init_fn(key)}

    def apply(
        variables: Variables, x: jax.Array, **_: Any
    ) -> tuple[jax.Array, Variables]:
        return apply_fn(variables["params"], x), {}

    return Model(init=init, apply=apply)

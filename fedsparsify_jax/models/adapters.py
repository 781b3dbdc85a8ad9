"""Anything with parameters as the pair of pure functions that the engine trains."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedsparsify_jax.types import ApplyFn, Key, Variables


class Model(NamedTuple):
    """A model as pure functions.

    Attributes:
      init: ``key -> variables``.
      apply: the forward pass, see `types.ApplyFn`:
        ``apply(variables, x, train=..., key=..., valid=...) -> (outputs, changed)``.
    """

    init: Callable[[Key], Variables]
    apply: ApplyFn


def _to_float(x: jax.Array) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def from_linen(
    module: nn.Module,
    input_shape: tuple[int, ...],
    *,
    preprocess: Callable[[jax.Array], jax.Array] | None = None,
) -> Model:
    """Wraps a Flax linen module.

    The module is called with ``x`` and with those of ``train`` and ``valid`` that its
    ``__call__`` accepts. Randomness comes under the name ``dropout``; collections
    beside ``params`` (batch statistics) may change in training.

    Args:
      module: the network, floats ``[B, ...]`` to outputs.
      input_shape: shape of one example, without the batch axis.
      preprocess: raw inputs to floats; by default only a conversion to float32.

    Example:
      >>> model = from_linen(nn.Dense(2), (3,))
      >>> variables = model.init(jax.random.key(0))
      >>> outputs, changed = model.apply(variables, jnp.ones((5, 3), jnp.uint8))
      >>> outputs.shape, changed
      ((5, 2), {})
    """
    prepare = preprocess or _to_float
    accepted = inspect.signature(module.__call__).parameters

    def flags(**values: Any) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name in accepted}

    def init(key: Key) -> Variables:
        example = jnp.zeros((1, *input_shape), jnp.float32)
        return dict(module.init(key, example, **flags(train=False)))

    def apply(
        variables: Variables,
        x: jax.Array,
        *,
        train: bool = False,
        key: Key | None = None,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, Variables]:
        mutable = [name for name in variables if name != "params"] if train else []
        outputs, changed = module.apply(
            variables,
            prepare(x),
            rngs=None if key is None else {"dropout": key},
            mutable=mutable,
            **flags(train=train, valid=valid),
        )
        return outputs, dict(changed)

    return Model(init, apply)


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
        variables: Variables,
        x: jax.Array,
        *,
        train: bool = False,
        key: Key | None = None,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, Variables]:
        del train, key, valid
        return apply_fn(variables["params"], x), {}

    return Model(init, apply)

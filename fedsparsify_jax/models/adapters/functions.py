"""A plain pair of functions as a model."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.models.adapters.flags import accepted_flags, tried_flags
from fedsparsify_jax.models.adapters.model import Model, checked_outputs, described
from fedsparsify_jax.types import Key, Variables


def from_functions(
    init_fn: Callable[[Key], Any], apply_fn: Callable[..., jax.Array]
) -> Model:
    """Wraps a plain pair of functions over a tree of parameters.

    Args:
      init_fn: ``key -> params``, any tree of arrays.
      apply_fn: ``(params, x) -> outputs [B, ...]``. It also gets ``key`` and ``valid``,
        see `types.ApplyFn`, and whether it trains, see `from_linen`, if it takes
        arguments of these names.

    Returns:
      A model whose variables are ``{"params": params}``.

    Raises:
      InputError: if the functions take other arguments. ``init`` raises it for a tree
        without arrays, ``apply`` for outputs that are not one array ``[B, ...]``.

    Example:
      >>> model = from_functions(lambda key: {"w": jax.random.normal(key, (3, 2))},
      ...                        lambda params, x: x @ params["w"])
      >>> outputs, _ = model.apply(model.init(jax.random.key(0)), jnp.ones((5, 3)))
      >>> outputs.shape
      (5, 2)
    """
    for name, function in (("init_fn", init_fn), ("apply_fn", apply_fn)):
        if not callable(function):
            raise InputError(
                f"{name} is {shown(function)}: it must be a function, see "
                "models.from_functions; from_linen and from_nnx take modules"
            )
    accepted = accepted_flags(apply_fn, "apply_fn", inputs=2, others=("valid", "key"))

    def init(key: Key) -> Variables:
        return _variables(init_fn(key))

    def apply(
        variables: Variables,
        x: jax.Array,
        *,
        train: bool = False,
        key: Key | None = None,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, Variables]:
        params = variables["params"]

        def run(flags: Mapping[str, Any]) -> Any:
            return jax.eval_shape(functools.partial(apply_fn, **flags), params, x)

        takes = tried_flags(run, accepted, "apply_fn", valid=None, key=None)
        flags = takes.values(train, valid=valid, key=key)
        with _explained(x):
            outputs = apply_fn(params, x, **flags)
        return checked_outputs(outputs, x, "apply_fn", otherwise=_STATE), {}

    return Model(init=init, apply=apply)


_STATE = (
    "for a model with other state write models.Model(init, apply), whose apply returns "
    "(outputs, changed collections)"
)


@contextlib.contextmanager
def _explained(x: Any) -> Iterator[None]:
    """Says in the library's words that a function took x for a dict."""
    try:
        yield
    except (TypeError, IndexError) as error:
        # The words of JAX, and those of NumPy.
        if not re.search("string indexing|valid indices", str(error)):
            raise
        raise InputError(
            "apply_fn looks something up by name in an array: it is called with "
            f"(params, x), where x is {described(x)}, and no dict: {error}"
        ) from error


def _variables(params: Any) -> Variables:
    """Returns a tree of parameters as a collection, with arrays as its leaves."""
    if not jax.tree.leaves(params):
        raise InputError(
            f"init_fn returned {described(params)}: it must return the parameters, a "
            "tree with at least one array"
        )
    if isinstance(params, Mapping) and "params" in params and len(params) > 1:
        raise InputError(
            f"init_fn returned the collections {', '.join(map(shown, params))}: it "
            f"must return the parameters alone; {_STATE}"
        )
    return trees.map_with_name(_array, {"params": params})


def _array(name: str, leaf: Any) -> jax.Array:
    if isinstance(leaf, jax.Array):
        return leaf
    try:
        return jnp.asarray(leaf, jnp.result_type(leaf))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"init_fn returned {shown(leaf)} at {name}: every leaf must be an array"
        ) from error

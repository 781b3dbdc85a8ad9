"""The proximal term, a `Method.objective` hook."""

from typing import get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.method import Batch, BatchLoss, Context, ObjectiveFn
from fedsparsify_jax.types import Anchor, Key, Variables


def proximal(mu: ArrayLike, anchor: Anchor = "global") -> ObjectiveFn:
    """Builds the objective with ``mu/2 ||w - anchor||^2`` added, for any method.

    Args:
      mu: at least 0; may be traced.
      anchor: ``"global"``, the model the round started from, or ``"zero"``.
    """
    if anchor not in get_args(Anchor):
        raise ValueError(f"unknown anchor {anchor!r}: 'global' or 'zero'")
    if isinstance(mu, int | float) and mu < 0:
        raise ValueError(f"mu is {mu}: it must be at least 0")

    def objective(
        loss: BatchLoss, variables: Variables, batch: Batch, key: Key, context: Context
    ) -> tuple[jax.Array, Variables]:
        value, changed = loss(variables, batch, key)
        moved = variables["params"]
        if anchor == "global":
            moved = jax.tree.map(jnp.subtract, moved, context.variables["params"])
        squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(moved)]
        return value + mu / 2 * sum(squares), changed

    return objective

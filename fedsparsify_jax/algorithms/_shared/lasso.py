"""The penalty of HALO and the step on its lambda, leaf by leaf."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import trees
from fedsparsify_jax.masks import kernels_only
from fedsparsify_jax.types import Masks, Prunable, Variables

LEAST = 0.05
"""The smallest lambda of a weight that is kept: its L1 has at most 400 times xi."""

Lambdas = dict[str, jax.Array]
"""Path of a penalised leaf to an array of its shape; 0 where a weight is pruned."""


def penalised(variables: Variables, prunable: Prunable | None) -> Variables:
    """Returns the kernels that may be pruned: path, with dots, to leaf or its mask.

    >>> leaves = {"params": {"kernel": jnp.ones(1), "bias": jnp.ones(1)}}
    >>> list(penalised(leaves, None))
    ['params.kernel']
    """
    return {
        name.replace("/", "."): leaf  # names in messages have no slashes
        for name, leaf in trees.named_leaves(variables)
        if kernels_only(name) and (prunable is None or prunable(name))
    }


def under(masks: Masks, lambdas: Lambdas, prunable: Prunable | None) -> Lambdas:
    """Sets lambda to 0 where the masks of the weights do."""
    kept = penalised(masks, prunable)
    return {name: jnp.where(kept[name], leaf, 0) for name, leaf in lambdas.items()}


def penalty(
    weights: Variables, lambdas: Lambdas | None, xi: ArrayLike, psi: ArrayLike
) -> jax.Array:
    """Returns ``xi sum |w| / lambda^2 + psi sum |lambda|``: a float32 scalar.

    Args:
      weights: path to leaf, see `penalised`.
      lambdas: None for ones, which is L1 alone: ``xi sum |w|``.
      xi: weight of the first sum.
      psi: weight of the second.

    Example:
      >>> w, lambdas = {"w": jnp.array([1.0, -3.0])}, {"w": jnp.array([1.0, 2.0])}
      >>> penalty(w, lambdas, 0.5, 0.1), penalty(w, None, 0.5, 0.1)
      (Array(1.175, dtype=float32), Array(2., dtype=float32))
    """
    total = jnp.float32(0)
    for name, w in weights.items():
        size = jnp.abs(w).astype(jnp.float32)
        if lambdas is not None:
            kept = jnp.where(lambdas[name] > 0, lambdas[name], 1).astype(jnp.float32)
            size = size / kept**2
            total += psi * jnp.sum(jnp.abs(lambdas[name]).astype(jnp.float32))
        total += xi * jnp.sum(size)
    return total


def stepped(
    weights: Variables, lambdas: Lambdas, ratio: ArrayLike, rate: ArrayLike
) -> Lambdas:
    """Takes a step down the penalty's slope in lambda, ``psi (1 - 2 r |w| / l^3)``.

    Args:
      weights: path to leaf.
      lambdas: before the step.
      ratio: r = xi / psi.
      rate: the step's length in units of 1 / psi.

    Returns:
      No less than `LEAST`, but 0 where it was 0.

    Example:
      >>> stepped({"w": jnp.array([0.25])}, {"w": jnp.array([1.0])}, 1.0, 0.5)
      {'w': Array([0.75], dtype=float32)}
    """

    def leaf(w: jax.Array, old: jax.Array) -> jax.Array:
        kept = jnp.where(old > 0, old, 1)
        slope = 1 - 2 * ratio * jnp.abs(w) / kept**3
        new = jnp.maximum(kept - rate * slope, LEAST)
        return jnp.where(old > 0, new, 0).astype(old.dtype)

    return {name: leaf(weights[name], old) for name, old in lambdas.items()}


def closed_form(weights: Variables, ratio: ArrayLike) -> Lambdas:
    """Returns the lambda where that slope is 0, ``(2 r |w|)^(1/3)``, or `LEAST`.

    >>> closed_form({"w": jnp.array([0.0, -4.0])}, 1.0)["w"].round(4)
    Array([0.05, 2.  ], dtype=float32)
    """
    return {
        name: jnp.maximum((2 * ratio * jnp.abs(w)) ** (1 / 3), LEAST).astype(w.dtype)
        for name, w in weights.items()
    }

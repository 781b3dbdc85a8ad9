"""Powerpropagation: weights as powers of what is trained.

Schwarz, Jayakumar, Pascanu, Latham and Teh, *Powerpropagation: A Sparsity Inducing
Weight Reparameterisation*, NeurIPS 2021, arXiv 2110.00296. With alpha >= 1,

    w        =  sign(theta) |theta|^alpha                the weight of the forward pass
    theta_0  =  sign(w_0) |w_0|^(1 / alpha)              so that training starts at w_0
    dL/dtheta  =  dL/dw alpha |theta|^(alpha - 1)        small weights hardly move

so more weights end close to zero than in plain training, which alpha = 1 is, bit for
bit. Sizes keep their order: pruning by |theta| is pruning by |w|. A weight at
zero has no gradient for alpha > 1 and stays there.

Only kernels are powers, as in the authors' notebook: biases and norm parameters, and
what the method may not prune, are trained as they are.

Checked against: google-deepmind/deepmind-research, powerpropagation (the notebook),
read; steps in NumPy in tests/training/test_powerprop.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import trees
from fedsparsify_jax.masks import kernels_only
from fedsparsify_jax.types import Prunable, Variables


def check_alpha(alpha: ArrayLike | None) -> None:
    """Refuses an exponent out of range, where it is a plain number.

    Raises:
      ValueError: naming the value and what is allowed.
    """
    if isinstance(alpha, int | float) and not 1 <= alpha < float("inf"):
        raise ValueError(f"powerprop is {alpha}: it must be at least 1 and finite")


@jax.custom_jvp
def raised(theta: jax.Array, alpha: jax.Array) -> jax.Array:
    """Returns ``sign(theta) |theta|^alpha``, with a gradient of 0 at 0 for alpha > 1.

    Args:
      theta: floats of any shape.
      alpha: a scalar of at least 1; no gradient with respect to it is given.

    Example:
      >>> theta = jnp.array([-2.0, 0.0, 3.0])
      >>> raised(theta, 2.0)
      Array([-4.,  0.,  9.], dtype=float32)
      >>> jax.grad(lambda theta: jnp.sum(raised(theta, 1.5)))(theta)[1]
      Array(0., dtype=float32)
    """
    alpha = jnp.asarray(alpha, theta.dtype)
    return jnp.where(alpha == 1, theta, theta * _power(theta, alpha - 1))


def _power(theta: jax.Array, exponent: jax.Array) -> jax.Array:
    """Returns ``|theta|^exponent``, 0 at 0.

    By logarithms, which XLA computes three times as fast on CPUs as its power; to 1e-6
    of the result, and 3e-6 for sizes like 1e-20. Short floats are widened for it.
    """
    size = jnp.abs(theta.astype(jnp.promote_types(theta.dtype, jnp.float32)))
    there = size > 0
    power = jnp.exp(exponent * jnp.log(jnp.where(there, size, 1)))
    return jnp.where(there, power, 0).astype(theta.dtype)


# The derivative of |theta|^(alpha - 1) alone has no limit at 0.
@raised.defjvp
def _raised_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    theta, alpha = primals
    alpha = jnp.asarray(alpha, theta.dtype)
    power = _power(theta, alpha - 1)
    value = jnp.where(alpha == 1, theta, theta * power)
    return value, jnp.where(alpha == 1, 1, alpha * power) * tangents[0]


def _root(weights: jax.Array, alpha: jax.Array) -> jax.Array:
    """Returns ``sign(w) |w|^(1 / alpha)``, once a round and to the last bit."""
    exponent = 1 / jnp.asarray(alpha, weights.dtype)
    root = jnp.sign(weights) * jnp.abs(weights) ** exponent
    return jnp.where(alpha == 1, weights, root)


class Powers(NamedTuple):
    """The leaves that are powers of what is trained, and their exponent."""

    alpha: ArrayLike
    prunable: Prunable | None  # the method's

    def weights(self, theta: Variables) -> Variables:
        """Returns the weights, given what is trained; leaves of any shape.

        >>> Powers(2.0, None).weights({"params": {"w": jnp.array([-3.0])}})
        {'params': {'w': Array([-9.], dtype=float32)}}
        """
        return self._mapped(raised, theta)

    def roots(self, weights: Variables) -> Variables:
        """Returns what is trained, given the weights.

        >>> Powers(2.0, None).roots({"params": {"w": jnp.array([-9.0])}})
        {'params': {'w': Array([-3.], dtype=float32)}}
        """
        return self._mapped(_root, weights)

    def _mapped(
        self, fn: Callable[[jax.Array, jax.Array], jax.Array], variables: Variables
    ) -> Variables:
        alpha = jnp.asarray(self.alpha, jnp.float32)

        def leaf(name: str, array: jax.Array) -> jax.Array:
            may = self.prunable is None or self.prunable(name)
            return fn(array, alpha) if may and kernels_only(name) else array

        powers: Variables = trees.map_with_name(leaf, variables)
        return powers

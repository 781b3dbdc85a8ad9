"""Training of dense weights through masks, which hide some of them from the network."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.method import Client, Context, Local, Upload
from fedsparsify_jax.types import Key, Masks, PyTree


def through(params: PyTree, masks: Masks) -> PyTree:
    """Returns the weights under their masks, with the gradient of the weights.

    >>> w, kept = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])}
    >>> jax.grad(lambda w: jnp.sum(through(w, kept)["w"]))(w)
    {'w': Array([1., 1.], dtype=float32)}
    """

    def masked(w: jax.Array, mask: jax.Array) -> jax.Array:
        return w + jax.lax.stop_gradient(jnp.where(mask, w, 0) - w)

    return jax.tree.map(masked, params, masks)


def penalty(params: PyTree, masks: Masks, decay: ArrayLike) -> jax.Array:
    """Returns ``decay / 2 * |w|^2`` of what the masks do not keep.

    Its gradient is the decay of pruned weights of SR-STE.

    >>> w, kept = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])}
    >>> penalty(w, kept, 0.5)
    Array(1., dtype=float32)
    """
    pruned = jax.tree.map(lambda w, mask: jnp.where(mask, 0, w), params, masks)
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(pruned)]
    return jnp.asarray(sum(squares)) * (jnp.asarray(decay) / 2)


def send_dense(
    key: Key, local: Local, context: Context, client: Client
) -> tuple[Upload, PyTree]:
    """Sends all weights, those that masks hide included."""
    del key, context
    everything = jax.tree.map(jnp.ones_like, local.masks)
    return Upload(local.variables, everything), client.state

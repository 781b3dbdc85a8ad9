"""Updates of a bounded length: the largest that one client can do to a mean."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.method import Client, Context, Local, Method, Upload
from fedsparsify_jax.types import Key, Masks, PyTree, Variables


def clipped_to(norm: ArrayLike | None, method: Method) -> Method:
    """Clips the updates that clients of a method send; None leaves it as it is."""
    if norm is None:
        return method

    def send(
        key: Key, local: Local, context: Context, client: Client
    ) -> tuple[Upload, PyTree]:
        upload, state = method.upload.send(key, local, context, client)
        start, _ = method.receive(context, client)
        variables = clipped(upload.variables, upload.masks, start, norm)
        return upload._replace(variables=variables), state

    return method._replace(upload=method.upload._replace(send=send))


def clipped(
    variables: Variables, masks: Masks, start: Variables, norm: ArrayLike
) -> Variables:
    """Scales a client's update down to a norm, if it is longer.

    ``w0 + (w - w0) min(1, norm / |w - w0|)`` over the parameters, where w0 is what the
    client started from under the masks that it sends: pruned entries stay zero, and
    pruning is no update. Other collections pass.

    Args:
      variables: what the client sends.
      masks: its masks.
      start: what it started from.
      norm: the largest Euclidean norm; may be traced.

    References:
      Sun et al., Can You Really Backdoor Federated Learning?, arXiv 1911.07963.

    Example:
      >>> kept = {"params": jnp.array([True, True, False])}
      >>> sent = {"params": jnp.array([3.0, 4.0, 0.0])}
      >>> clipped(sent, kept, {"params": jnp.array([0.0, 0.0, 9.0])}, 1.0)
      {'params': Array([0.6, 0.8, 0. ], dtype=float32)}
    """
    origin = mask_algebra.apply(masks["params"], start["params"])
    update = jax.tree.map(jnp.subtract, variables["params"], origin)
    scale = trees.shrinkage(update, norm)

    def shorten(sent: jax.Array, old: jax.Array, u: jax.Array) -> jax.Array:
        # What is not a number stays none, for the engine to reject.
        return jnp.where(scale >= 1, sent, old + u * scale)

    params = jax.tree.map(shorten, variables["params"], origin, update)
    return variables | {"params": params}


def check_norm(name: str, norm: ArrayLike | None) -> None:
    """Refuses a norm out of range, where it is a plain number.

    Raises:
      ValueError: naming the value and what is allowed.
    """
    if isinstance(norm, int | float) and not 0 < norm < float("inf"):
        raise ValueError(f"{name} is {norm}: it must be above 0 and finite")

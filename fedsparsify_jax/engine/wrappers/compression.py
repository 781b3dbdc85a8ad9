"""Compressed uploads: clients send changes of few or coarse numbers.

With the model w that a client starts from and its upload w_k, both under the masks m_k
that it sends, and what was left out before, e_k:

    x   = m_k (w_k - w + e_k)
    q   = C(x)               what is sent: `compressors`
    w_k <- w + q             what the server merges
    e_k <- x - q             with error feedback

so that a pruned weight stays exactly zero, and so does its e_k. The change is that of
the whole upload, after attacks and clipping. Masks, other collections and whatever else
an algorithm uploads are sent as they are, and a model with a NaN or an infinity, too.
e_k is a client's own state: it changes in rounds whose merge has its upload.

References:
  Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014 (error feedback);
  Stich et al., Sparsified SGD with Memory, arXiv 1809.07599; Karimireddy et al., Error
  Feedback Fixes SignSGD, arXiv 1901.09847.
"""

import jax
import jax.numpy as jnp

from fedsparsify_jax import compressors, trees
from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax.compressors import Change, Compression
from fedsparsify_jax.engine.records import (
    ClientHalf,
    ClientResult,
    ClientTask,
    WithResidual,
    extra_bytes,
    model_bytes,
)
from fedsparsify_jax.engine.wrappers.faults import is_finite
from fedsparsify_jax.engine.wrappers.transport import rounded
from fedsparsify_jax.method import Context, Method
from fedsparsify_jax.metrics.communication import coarse_bytes, picked_bytes
from fedsparsify_jax.types import Masks, PyTree, Variables, WireValues

# Far from the small numbers that `split` folds in.
_COMPRESSION = 0xC0A12E


def with_residual(
    compression: Compression | None, variables: Variables, extra: PyTree
) -> PyTree:
    """Adds to the first state of a client that nothing is left out, with feedback."""
    if compression is None or not compression.error_feedback:
        return extra
    params = variables["params"]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
    return WithResidual(extra, zeros)


def uploads_compressed(
    compression: Compression,
    method: Method,
    clients: ClientHalf,
    values: WireValues = "float32",
) -> ClientHalf:
    """Compresses what clients upload, after everything else that happens to it.

    Args:
      compression: what is sent.
      method: of the clients.
      clients: their half of the round.
      values: dtype in which the numbers of ``"topk"``, and other collections beside
        them, travel. Beside coarse numbers these are float32.
    """
    kind, feedback = compression.kind, compression.error_feedback

    def run(context: Context, task: ClientTask) -> ClientResult:
        key = jax.random.fold_in(jax.random.clone(task.key), _COMPRESSION)
        result = clients(context, task)
        upload = result.upload
        params, masks = upload.variables["params"], upload.masks["params"]
        start, _ = method.receive(context, task.client)
        origin = mask_algebra.apply(masks, start["params"])

        # What is to be sent, and what of it is.
        wanted = jax.tree.map(_difference, params, origin)
        if feedback:
            left = mask_algebra.apply(masks, task.residual)
            wanted = jax.tree.map(jnp.add, wanted, left)
        change = compressors.compress(kind, key, wanted, masks, compression.fraction)
        others = upload.variables
        if kind == "topk":
            change = change._replace(numbers=_sent(change.numbers, values))
            others = rounded(others, values)
        # One result for the merge, the residual and the record of messages.
        change = jax.lax.optimization_barrier(change)

        # What the server has then. Broken uploads are sent, and rejected, as they are.
        arrived = jax.tree.map(added, origin, change.numbers)
        arrived = trees.where(result.finite, arrived, params)
        variables = others | {"params": arrived}
        state = result.state
        if feedback:
            residual = jax.tree.map(jnp.subtract, wanted, change.numbers)
            state = state._replace(extra=WithResidual(state.extra, residual))
        sent = _bytes(kind, method, upload.variables, upload.masks, change)
        sent += extra_bytes(upload)
        return result._replace(
            upload=upload._replace(variables=variables),
            state=state,
            bytes_up=jnp.where(result.finite, sent, result.bytes_up),
            finite=result.finite & is_finite((arrived, change)),
            change=change,
        )

    return run


def _sent(numbers: PyTree, values: WireValues) -> PyTree:
    """Returns numbers as they travel; one that becomes zero is not in the message."""

    def without_sign(leaf: jax.Array) -> jax.Array:
        return jnp.where(leaf == 0, 0.0, leaf)

    return jax.tree.map(without_sign, rounded(numbers, values))


def _difference(new: jax.Array, old: jax.Array) -> jax.Array:
    return new.astype(jnp.float32) - old.astype(jnp.float32)


def added(origin: jax.Array, change: jax.Array) -> jax.Array:
    """Adds a change to the weights that it is of, in their dtype.

    >>> added(jnp.array([1.0, 0.0]), jnp.array([-0.5, 0.0]))
    Array([0.5, 0. ], dtype=float32)
    """
    return (origin.astype(jnp.float32) + change).astype(origin.dtype)


def _bytes(
    kind: str, method: Method, variables: Variables, masks: Masks, change: Change
) -> jax.Array:
    """Counts the bytes of one upload, and all else that a model has by its rule."""
    others = {name: tree for name, tree in variables.items() if name != "params"}
    counted = model_bytes(method, others, {name: masks[name] for name in others})
    if kind == "topk":
        return counted + picked_bytes(change.numbers, masks["params"])
    return counted + coarse_bytes(masks["params"], compressors.BITS[kind])

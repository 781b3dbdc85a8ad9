"""Membership scores: what a model shows of the examples it was trained on.

Every function takes a model in evaluation (``train=False``) and real examples, without
padding (`real_examples`), and works on a few of them at a time. All are jittable.

Sources of the scores: the loss (Yeom et al., arXiv 1709.01604); the norm of the
gradient and the last layer's gradient (Nasr et al., arXiv 1812.00910); the gradient
features in the manner of Gupta et al. (arXiv 2105.02866) and Stripelis et al. (arXiv
2208.11669), who attack models of brain volumes and whose code we have not seen; the
logit-scaled confidence (Carlini et al., arXiv 2112.03570).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.client_map import chunked
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.training.losses import example_losses
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    Examples,
    LossFn,
    Masks,
    Variables,
)

CHUNK = 128
"""Examples whose outputs or gradients are held at a time."""


def real_examples(clients: ClientData) -> Examples:
    """Returns the examples of clients ``[N, M]``, or of one ``[M]``, without padding.

    In NumPy, for their number depends on the values of ``sizes``.

    >>> x, y = jnp.zeros((2, 3, 1)), jnp.array([[1, 2, 9], [3, 9, 9]])
    >>> real_examples(ClientData(x, y, jnp.array([2, 1]))).y
    array([1, 2, 3], dtype=int32)
    """
    sizes = np.atleast_1d(np.asarray(clients.sizes))
    x, y = np.asarray(clients.x), np.asarray(clients.y)
    if np.ndim(clients.sizes) == 0:
        x, y = x[None], y[None]
    real = np.arange(y.shape[1])[None, :] < sizes[:, None]
    return Examples(x[real], y[real])


def losses(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    variables: Variables,
    examples: Examples,
    *,
    chunk: int = CHUNK,
) -> jax.Array:
    """Computes the loss of every example: float32 ``[n]``. Members have smaller ones.

    Args:
      apply_fn: the model's forward pass.
      loss_fn: outputs and targets to a loss an example; of any task.
      variables: the model.
      examples: x ``[n, ...]``, y ``[n]``.
      chunk: examples at a time.

    Example:
      >>> answer = lambda variables, x, **_: (x * variables["params"]["w"], {})
      >>> square = lambda outputs, y: (outputs - y) ** 2
      >>> examples = Examples(jnp.array([1.0, 2.0]), jnp.array([0.0, 2.0]))
      >>> losses(answer, square, {"params": {"w": jnp.float32(1.0)}}, examples)
      Array([1., 0.], dtype=float32)
    """

    def loss(variables: Variables, example: Examples) -> jax.Array:
        return _loss(apply_fn, loss_fn, variables, example)

    return _of_each(loss, variables, examples, chunk)


def logit_confidence(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Returns ``log(p_y / (1 - p_y))`` of logits ``[B, C]`` and classes ``[B]``.

    As ``l_y - log sum_{j != y} exp(l_j)``, which neither overflows nor rounds p to 1.

    Raises:
      InputError: for outputs that are no logits of at least two classes.

    Example:
      >>> logit_confidence(jnp.array([[100.0, 0.0]]), jnp.array([0]))
      Array([100.], dtype=float32)
    """
    integer = jnp.issubdtype(jnp.result_type(y), jnp.integer)
    if jnp.ndim(outputs) != 2 or outputs.shape[-1] < 2 or not integer:
        raise InputError(
            f"outputs have shape {list(jnp.shape(outputs))} and targets dtype "
            f"{jnp.result_type(y)}: confidences are of logits [B, C], C at least 2, "
            "and classes; use losses for numbers"
        )
    right = jnp.arange(outputs.shape[-1])[None] == y[:, None]
    logits = outputs.astype(jnp.float32)
    others = jax.nn.logsumexp(logits, axis=-1, where=~right)
    return jnp.sum(jnp.where(right, logits, 0.0), axis=-1) - others


def confidences(
    apply_fn: ApplyFn, variables: Variables, examples: Examples, *, chunk: int = CHUNK
) -> jax.Array:
    """Computes `logit_confidence` of every example: float32 ``[n]``, for LiRA.

    Members have larger ones. For regression give LiRA the logarithms of `losses`.
    """

    def confidence(variables: Variables, example: Examples) -> jax.Array:
        outputs, _ = apply_fn(variables, example.x[None])
        return logit_confidence(outputs, example.y[None])[0]

    return _of_each(confidence, variables, examples, chunk)


def gradient_norms(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    variables: Variables,
    examples: Examples,
    *,
    masks: Masks | None = None,
    chunk: int = CHUNK,
) -> jax.Array:
    """Computes the norm of the gradient of every example's loss: float32 ``[n]``.

    Over all parameters. Members have smaller ones.

    Args:
      apply_fn: the model's forward pass.
      loss_fn: outputs and targets to a loss an example.
      variables: the model.
      examples: x ``[n, ...]``, y ``[n]``.
      masks: of a sparse model, to leave the derivatives by pruned weights out.
      chunk: examples at a time, and so gradients that are held.
    """

    def norm(gradient: dict[str, jax.Array]) -> jax.Array:
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in gradient.values()))

    each = _gradients(apply_fn, loss_fn, variables, masks, "", norm)
    return _of_each(each, variables, examples, chunk)


def layer_gradients(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    variables: Variables,
    examples: Examples,
    *,
    layer: str,
    masks: Masks | None = None,
    chunk: int = CHUNK,
) -> jax.Array:
    """Computes every example's gradient by one layer, as features: float32 ``[n, d]``.

    Args:
      apply_fn: the model's forward pass.
      loss_fn: outputs and targets to a loss an example.
      variables: the model.
      examples: x ``[n, ...]``, y ``[n]``.
      layer: name of the layer, as a part of the paths of its d parameters, such as
        ``"Dense_1"``; the last one in the protocol of the neuroimaging papers.
      masks: of a sparse model, to have zeros for its pruned weights.
      chunk: examples at a time.

    Raises:
      InputError: if no parameter is in such a layer.
    """

    def flat(gradient: dict[str, jax.Array]) -> jax.Array:
        return jnp.concatenate([leaf.ravel() for leaf in gradient.values()])

    each = _gradients(apply_fn, loss_fn, variables, masks, layer, flat)
    return _of_each(each, variables, examples, chunk)


def _loss(
    apply_fn: ApplyFn, loss_fn: LossFn, variables: Variables, example: Examples
) -> jax.Array:
    outputs, _ = apply_fn(variables, example.x[None])
    return example_losses(loss_fn, outputs, example.y[None])[0]


def _of_each(
    fn: Callable[[Variables, Examples], jax.Array],
    variables: Variables,
    examples: Examples,
    chunk: int,
) -> jax.Array:
    """Runs a function of one example for all of them, a chunk at a time."""
    if chunk < 1:
        raise InputError(f"chunk is {chunk}: it must be at least 1")
    arrays = Examples(jnp.asarray(examples.x), jnp.asarray(examples.y))
    _, results = chunked(chunk)(fn, variables, arrays)
    return results.astype(jnp.float32)


def _gradients(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    variables: Variables,
    masks: Masks | None,
    layer: str,
    reduce: Callable[[dict[str, jax.Array]], jax.Array],
) -> Callable[[Variables, Examples], jax.Array]:
    """Builds the function of one example's gradient by a layer, ``""`` for all."""
    parameters = [
        name for name, _ in trees.named_leaves(variables) if name.startswith("params/")
    ]
    names = [name for name in parameters if not layer or f"/{layer}/" in f"/{name}/"]
    if not names:
        layers = sorted({name.rsplit("/", 1)[0] for name in parameters})
        raise InputError(
            f"no parameter is in a layer {layer!r}: there are {', '.join(layers)}"
        )

    def each(variables: Variables, example: Examples) -> jax.Array:
        leaves = dict(trees.named_leaves(variables))
        structure = jax.tree.structure(variables)

        def loss(chosen: dict[str, Any]) -> jax.Array:
            model = jax.tree.unflatten(structure, (leaves | chosen).values())
            return _loss(apply_fn, loss_fn, model, example)

        gradient = jax.grad(loss)({name: leaves[name] for name in names})
        if masks is not None:
            kept = dict(trees.named_leaves(masks))
            gradient = mask_algebra.apply({n: kept[n] for n in names}, gradient)
        return reduce(gradient)

    return each

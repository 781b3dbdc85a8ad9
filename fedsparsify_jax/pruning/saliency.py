"""Scores of parameters other than their magnitude.

Every function returns a float tree with the structure of the variables, to be handed to
`pruning.prune`, which keeps the largest. Collections beside ``params`` score zero. A
``loss`` here is a function of the variables alone: close it over a batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax.pruning.selection import prune
from fedsparsify_jax.types import (
    ApplyFn,
    Key,
    Masks,
    Prunable,
    PyTree,
    Scope,
    Scores,
    Variables,
)

Loss = Callable[[Variables], jax.Array]
"""Variables to a scalar."""


def _of_params(loss: Loss, variables: Variables) -> Callable[[PyTree], jax.Array]:
    return lambda params: loss(variables | {"params": params})


def _scores(variables: Variables, of_params: PyTree) -> Scores:
    return jax.tree.map(jnp.zeros_like, variables) | {"params": of_params}


def random(key: Key, variables: Variables) -> Scores:
    """Draws independent uniform scores: their order is a random permutation.

    >>> random(jax.random.key(0), {"params": {"w": jnp.zeros(2)}})["params"]["w"].shape
    (2,)
    """
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(key, len(leaves))
    scores = [
        jax.random.uniform(one, jnp.shape(leaf))
        for one, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, scores)


def snip(loss: Loss, variables: Variables) -> Scores:
    """Returns connection sensitivity: ``|g * w|``, ``g`` the gradient of the loss.

    The paper differentiates by a mask of ones, which is the same product, and divides
    by the sum, which changes no order.

    References:
      Lee et al., SNIP (arXiv 1810.02340), equation 6.

    Example:
      >>> snip(lambda v: jnp.sum(v["params"] ** 2), {"params": jnp.array([-3.0])})
      {'params': Array([18.], dtype=float32)}
    """
    gradients = jax.grad(_of_params(loss, variables))(variables["params"])
    product = jax.tree.map(lambda g, w: jnp.abs(g * w), gradients, variables["params"])
    return _scores(variables, product)


def grasp(loss: Loss, variables: Variables) -> Scores:
    """Returns contributions to the gradient flow: ``w * (H g)``, signed.

    Removing weight j changes ``g' g`` by about ``-2 w_j (H g)_j``. The paper scores
    ``-w * H g`` and removes the largest; this is the same with the sign turned, so
    that the largest are kept. H g is the derivative of the gradient along g, forward
    over reverse, with one evaluation of the gradient.

    References:
      Wang et al., Picking winning tickets before training by preserving gradient flow
      (arXiv 2002.07376), equation 8.

    Example:
      >>> grasp(lambda v: jnp.sum(v["params"] ** 2), {"params": jnp.array([-3.0])})
      {'params': Array([36.], dtype=float32)}
    """
    gradient = jax.grad(_of_params(loss, variables))
    g, along = jax.linearize(gradient, variables["params"])
    product = jax.tree.map(jnp.multiply, variables["params"], along(g))
    return _scores(variables, product)


def synflow(apply_fn: ApplyFn, variables: Variables, x: jax.Array) -> Scores:
    """Returns synaptic flow: ``|w| * dR/d|w| / R``, R the sum of the outputs of |w|.

    In a chain of layers without biases the scores of every layer sum to 1, however
    large R is. Where R or its gradient overflows float32, all kernels are halved
    until it does not, which scales the scores of such a chain alike.

    Weights in series that share all their flow (a norm scale and the only input its
    unit has left) tie up to rounding, and rounding then decides which goes first.

    Args:
      apply_fn: the model's forward pass, evaluated outside training.
      variables: the (masked) variables.
      x: one input ``[1, ...]`` that the network sees as positive numbers.

    References:
      Tanaka et al., Pruning neural networks without any data by iteratively
      conserving synaptic flow (arXiv 2006.05467), equation 2.
    """

    def flow(params: PyTree) -> jax.Array:
        return jnp.sum(apply_fn(variables | {"params": params}, x)[0])

    def attempt(scale: jax.Array) -> tuple[PyTree, jax.Array]:
        def shrink(w: jax.Array) -> jax.Array:
            return jnp.abs(w) * (scale if jnp.ndim(w) >= 2 else 1.0)

        positive = jax.tree.map(shrink, variables["params"])
        total, gradients = jax.value_and_grad(flow)(positive)
        fine = jnp.isfinite(total)
        for leaf in jax.tree.leaves(gradients):
            fine &= jnp.all(jnp.isfinite(leaf))
        alive = fine & (total > 0)
        share = jnp.where(alive, total, 1.0)
        scores = jax.tree.map(
            lambda w, g: jnp.where(alive, w * (g / share), 0.0), positive, gradients
        )
        return scores, fine

    Attempt = tuple[jax.Array, PyTree, jax.Array]

    def halve(tried: Attempt) -> Attempt:
        scale = tried[0] / 2
        return scale, *attempt(scale)

    one = jnp.float32(1.0)
    _, scores, _ = jax.lax.while_loop(
        lambda tried: ~tried[2] & (tried[0] > 2.0**-40), halve, (one, *attempt(one))
    )
    return _scores(variables, scores)


def synflow_masks(
    apply_fn: ApplyFn,
    variables: Variables,
    x: jax.Array,
    sparsity: ArrayLike,
    *,
    iterations: int = 100,
    scope: Scope = "global",
    prunable: Prunable | None = None,
) -> Masks:
    """Prunes by synaptic flow, a little at a time.

    Iteration i = 1, ..., n scores what is left and keeps a share ``(1 - s)^(i/n)``.

    Args:
      apply_fn: the model's forward pass.
      variables: the variables to prune.
      x: see `synflow`.
      sparsity: s in [0, 1); may be traced.
      iterations: n.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.

    References:
      Tanaka et al. (arXiv 2006.05467), algorithm 1.
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}: it must be at least 1")
    target = jnp.asarray(sparsity, jnp.float32)

    def body(i: jax.Array, masks: Masks) -> Masks:
        so_far = 1 - (1 - target) ** ((i + 1) / iterations)
        so_far = jnp.where(i + 1 == iterations, target, so_far)
        scores = synflow(apply_fn, mask_algebra.apply(masks, variables), x)
        return prune(scores, so_far, scope=scope, within=masks, prunable=prunable)

    start = mask_algebra.ones_like(variables)
    return jax.lax.fori_loop(0, iterations, body, start)

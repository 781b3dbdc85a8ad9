"""FedDST: clients drop and regrow weights, the server prunes the union back.

Bibikar, Vikalo, Wang and Chen, *Federated Dynamic Sparse Training: Computing Less,
Communicating Less, Yet Learning Better*, AAAI 2022, arXiv 2112.09824, algorithm 1.

Layer l keeps c_l weights, from the sparsity S by ERK; the first masks are random. In
round t, client k trains E epochs from (w, m). If (t - 1) mod A = 0 and alpha_t > 0,
then layer by layer, with g the dense gradient of its last batch,

    drop   the floor(alpha_t c_l) smallest |w_k| of m_k
    grow   as many largest |g| among the positions then pruned, at weight zero

    alpha_t = alpha/2 (1 + cos(pi (t - 1) / H))  up to H = R/2 rounds, 0 after

It uploads m_k * w_k and m_k, and the server merges

    w  <-  sum_k n_k m_k w_k / sum_k n_k m_k     (position by position, 0 if none)
    m  <-  the c_l largest |w| of every layer, within the union of the m_k

Deviations: kept counts are exact, ties (all weights just grown are zero) go to the
lowest index. A weight dropped and grown in the same step keeps its value, as in RigL.
The authors' code ranks gradients over all positions, which resets strong weights; the
paper's rule is implemented. Their "erk" is ``allocation="erk_feddst"``. Vectors
(biases, norm parameters) stay dense and count against the budget.
"""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.means import nonzero_mean
from fedsparsify_jax.algorithms._shared.proximal import proximal
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import (
    Client,
    Context,
    GradFn,
    GradientTransform,
    Local,
    Method,
    Setup,
    Uploads,
    no_clients,
    stacked,
)
from fedsparsify_jax.pruning import saliency
from fedsparsify_jax.pruning.selection import (
    drop_share,
    keep_counts,
    leaf_counts,
    magnitude,
)
from fedsparsify_jax.types import (
    Allocation,
    ApplyFn,
    Cohort,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    Variables,
)


def readjust(
    variables: Variables,
    masks: Masks,
    gradients: PyTree,
    alpha: ArrayLike,
    *,
    prunable: Prunable | None = None,
) -> Masks:
    """Drops a share of every layer by magnitude and grows as much by gradient.

    Args:
      variables: trained variables.
      masks: theirs; the result keeps as many in every leaf.
      gradients: of all positions, pruned ones included; same structure.
      alpha: share of each layer's kept weights, in [0, 1]; may be traced.
      prunable: path of a leaf to whether it may be pruned.

    Example:
      >>> w, g = jnp.array([3.0, 1.0, 0.0, 0.0]), jnp.array([0.0, 0.1, 0.2, 0.3])
      >>> readjust({"w": w}, {"w": w > 0}, {"w": g}, 0.5)
      {'w': Array([ True, False, False,  True], dtype=bool)}
    """
    counts = jax.tree.map(lambda mask: jnp.sum(mask, dtype=jnp.int32), masks)
    kept = drop_share(magnitude(variables), masks, alpha, prunable=prunable)
    scores = jax.tree.map(
        lambda keep, g: jnp.where(keep, jnp.inf, jnp.abs(g)), kept, gradients
    )
    return keep_counts(scores, counts, prunable=prunable)


def _no_gradient(variables: Variables) -> PyTree:
    return {"params": jax.tree.map(jnp.zeros_like, variables["params"])}


def _remember(
    grad_fn: GradFn, variables: Variables, memory: PyTree, context: Context
) -> tuple[Any, Variables, PyTree]:
    value, gradients = grad_fn(variables)
    return value, gradients, gradients


LAST_GRADIENT = GradientTransform(_no_gradient, _remember)
"""Plain gradients; the memory is that of the latest batch."""


def feddst(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.8,
    rounds: ArrayLike = 200,
    interval: int = 10,
    alpha: ArrayLike = 0.5,
    adjust_until: ArrayLike | None = None,
    allocation: Allocation = "erk",
    mu: ArrayLike = 0.0,
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedDST.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S in [0, 1), from the first round on.
      rounds: R.
      interval: A, rounds between adjustments.
      alpha: share of the weights that the first adjustment replaces.
      adjust_until: H, where the share reaches zero; R/2 by default.
      allocation: ``"erk"``, ``"er"``, ``"erk_feddst"`` or ``"layer"``, see
        `pruning.leaf_counts`.
      mu: weight of a FedProx term; 0 for none.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = feddst(model.apply, final_sparsity=0.5, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    if interval < 1:
        raise ValueError(f"interval is {interval}: it must be at least 1 round")
    horizon = rounds / 2 if adjust_until is None else adjust_until

    def largest(scores: Variables, context: Context, within: Masks | None) -> Masks:
        counts = leaf_counts(
            scores, context.sparsity, scope=allocation, prunable=prunable
        )
        return keep_counts(scores, counts, within=within, prunable=prunable)

    def first_masks(
        key: Key, context: Context, clients: Cohort
    ) -> tuple[Variables, Masks]:
        masks = largest(saliency.random(key, context.variables), context, None)
        return mask_algebra.apply(masks, context.variables), masks

    def drop_and_grow(
        key: Key, local: Local, context: Context, client: Client
    ) -> Masks:
        past = (context.round - 1).astype(jnp.float32)
        share = alpha / 2 * (1 + jnp.cos(jnp.pi * past / horizon))
        gradients = jax.tree.map(jnp.zeros_like, local.variables) | local.memory
        return jax.lax.cond(
            ((context.round - 1) % interval == 0) & (past < horizon),
            lambda: readjust(
                local.variables, local.masks, gradients, share, prunable=prunable
            ),
            lambda: local.masks,
        )

    def merge(uploads: Uploads, context: Context) -> tuple[Variables, Masks]:
        mean = nonzero_mean(uploads.variables, uploads.masks, uploads.sizes)
        votes = mask_algebra.votes(uploads.masks, uploads.sizes > 0)
        union = jax.tree.map(lambda count: count > 0, votes)
        masks = largest(magnitude(mean), context, union)
        return mask_algebra.apply(masks, mean), masks

    method = Method(
        schedule=schedules.constant(final_sparsity),
        setup=Setup(no_clients, first_masks),
        gradient=LAST_GRADIENT,
        client_prune=drop_and_grow,
        aggregate=stacked(merge),
        prunable=prunable,
    )
    if not (isinstance(mu, int | float) and mu == 0):
        method = method._replace(objective=proximal(mu))
    return engine(apply_fn, method, **options)

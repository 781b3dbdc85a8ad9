"""FedDIP: dense local weights under a mask, and a penalty that grows with the rounds.

Long, Anagnostopoulos, Parambath and Bi, *FedDIP: Federated Learning with Extreme
Dynamic Pruning and Incremental Regularization*, ICDM 2023, arXiv 2309.06805.

The first mask m is a random one by ERK, at the sparsity s_1. In round t = 1, ..., T,
with local weights w_k that start from w and stay dense (error feedback):

    tune    w_k <- w_k - eta g,  g the gradient at m * w_k of
            F_k(m * w_k) + lambda_t sum_l |m_l * w_kl|_2,  l the layers' kernels
    merge   w   <- sum_k n_k w_k / sum_k n_k
    purge   in every R-th round  m <- the n - floor(s_t n) largest |w| of all layers
            w   <- m * w

    s_t       =  s_T + (s_0 - s_T) (1 - R floor(t/R) / T)^3
    lambda_t  =  0 in the first twentieth of the rounds, and xi/2 (1 + (i - 1) / 19) in
                 the i-th one after it, i = 1, ..., 19

g is taken over for hidden weights as it is, so that they move and may be kept by the
next mask. What clients send is dense, and counted so; what they get is sparse.

``variant="authors"`` chooses masks as the published code does: out of the weights of
the mask before, so that only clients' training sees hidden weights move.

Deviations: the first mask is one for all clients, and hides weights of the first model
for good, where the code draws one for each client and only trains through it. Rounds
of the code are counted from 0: its purges come a round after ours and leave it denser
than s_T in the end. Its weight decay of 5e-4 and rate of 0.1 * 0.998^t are not part of
this. The training loss that a round reports contains the penalty.

Checked against: EricLoong/feddip 4327d96, read (client.py, fl_server.py); whole rounds
in NumPy in tests/algorithms/test_feddip.py.
"""

from typing import Unpack, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared import adjustment
from fedsparsify_jax.algorithms._shared.straight_through import send_dense, through
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import (
    Batch,
    BatchLoss,
    Context,
    Method,
    ObjectiveFn,
    ServerTransform,
    Uploader,
    Uploads,
    no_projection,
    no_state,
    stateless,
)
from fedsparsify_jax.pruning.selection import magnitude, prune
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    Scope,
    Variables,
    Variant,
)

SEGMENTS = 20
"""Parts of the rounds that have a weight of the penalty each."""


def feddip(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    rounds: ArrayLike = 200,
    initial_sparsity: ArrayLike = 0.5,
    exponent: ArrayLike = 3.0,
    interval: int = 5,
    xi: ArrayLike = 1e-3,
    variant: Variant = "published",
    merge: str | ValueMerge = "mean",
    scope: Scope = "global",
    prunable: Prunable | None = mask_algebra.kernels_only,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedDIP.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: s_T in [0, 1).
      rounds: T, the last round.
      initial_sparsity: s_0.
      exponent: of the schedule.
      interval: R, rounds between purges.
      xi: what the penalty's weight grows to; 0 for none.
      variant: ``"published"``, or ``"authors"`` for masks within the ones before.
      merge: a name of `merges.NAMES` or a function of that signature.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for an unknown merge or variant, an interval below 1, or a weight out
        of range.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = feddip(model.apply, final_sparsity=0.8, interval=1, rounds=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.8
    """
    adjustment.check_name("variant", variant, get_args(Variant))
    if interval < 1:
        raise ValueError(f"interval is {interval}: it must be at least 1 round")
    if isinstance(xi, int | float) and not 0 <= xi < float("inf"):
        raise ValueError(f"xi is {xi}: it must be at least 0 and finite")
    method = Method(
        schedule=schedules.polynomial(
            final_sparsity,
            end=rounds,
            begin=0,
            initial=initial_sparsity,
            exponent=exponent,
            every=interval,
        ),
        setup=adjustment.first_masks(
            "random", adjustment.budgets("erk", prunable), prunable
        ),
        objective=_through_masks(xi, rounds, prunable),
        project=no_projection,
        upload=Uploader(no_state, send_dense),
        aggregate=aggregate(merge),
        server=_choosing(interval, variant, scope, prunable),
        grows=True,
        prunable=prunable,
    )
    return engine(apply_fn, method, **options)


def penalty_weight(xi: ArrayLike, t: ArrayLike, rounds: ArrayLike) -> jax.Array:
    """Returns lambda_t, which takes steps from xi / 2 nearly to xi.

    >>> [round(float(penalty_weight(1.0, t, 40)), 3) for t in (2, 3, 4, 5, 40)]
    [0.0, 0.5, 0.5, 0.526, 0.974]
    """
    past = jnp.asarray(t, jnp.float32) - 1
    segment = jnp.minimum(jnp.floor(past * SEGMENTS / rounds + 1e-4), SEGMENTS - 1)
    grown = xi / 2 * (1 + (segment - 1) / (SEGMENTS - 1))
    return jnp.where(segment > 0, grown, 0.0)


def _through_masks(
    xi: ArrayLike, rounds: ArrayLike, prunable: Prunable | None
) -> ObjectiveFn:
    """Builds the loss of the network under the round's masks, and the penalty."""
    penalised = not (isinstance(xi, int | float) and xi == 0)

    def objective(
        loss: BatchLoss, variables: Variables, batch: Batch, key: Key, context: Context
    ) -> tuple[jax.Array, Variables]:
        masks = context.masks["params"]
        used = {"params": through(variables["params"], masks)}
        value, changed = loss(variables | used, batch, key)
        if not penalised:
            return value, changed
        may_go = jax.tree.leaves(mask_algebra.prunable_leaves(used, prunable))
        kept = mask_algebra.apply(masks, variables["params"])
        leaves = zip(jax.tree.leaves(kept), may_go, strict=True)
        norms = sum(_norm(w) for w, use in leaves if use)
        return value + penalty_weight(xi, context.round, rounds) * norms, changed

    return objective


def _norm(w: jax.Array) -> jax.Array:
    """Returns the l2 norm, with gradient 0 where all of it is pruned."""
    square = jnp.sum(jnp.square(w.astype(jnp.float32)))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _choosing(
    interval: int, variant: Variant, scope: Scope, prunable: Prunable | None
) -> ServerTransform:
    """Builds the purge, which chooses masks anew in every R-th round."""

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        del key, uploads

        def anew() -> Masks:
            return prune(
                magnitude(variables),
                context.sparsity,
                scope=scope,
                within=masks if variant == "authors" else None,
                prunable=prunable,
            )

        masks = jax.lax.cond(context.round % interval == 0, anew, lambda: masks)
        return mask_algebra.apply(masks, variables), masks, context.server

    return stateless(update)

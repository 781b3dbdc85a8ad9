"""STE and SR-STE: dense weights trained through the mask of the largest of them.

Bengio, Leonard and Courville, *Estimating or Propagating Gradients Through Stochastic
Neurons for Conditional Computation*, arXiv 1308.3432 (the straight-through estimator);
Zhou, Ma, Zhu, Liu, Zhang, Yuan, Sun and Li, *Learning N:M Fine-grained Structured
Sparse Neural Networks From Scratch*, ICLR 2021, arXiv 2102.04010 (SR-STE).

In round t, with dense weights v, m(v) the mask of the n - floor(s_t n) largest |v| of
all layers together, s_t the schedule of FedSparsify and a learning rate eta:

    tune    in every step  m_k <- m(v_k)
                           v_k <- v_k - eta (g + d (1 - m_k) * v_k)
            with g the gradient of F_k at m_k * v_k
    merge   v   <- sum_k n_k v_k / sum_k n_k
    purge   m   <- m(v)

g is taken over as it is for pruned weights too, so that they may come back. d = 0
(``pruned_decay``) is STE; d > 0 is SR-STE, which holds pruned weights down. The model
to evaluate and to take away is m * v, with exact zeros; messages have v, so nothing is
saved in sending, and a step costs a threshold more than FedAvg's.

``pattern="2:4"`` is SR-STE's own mask: m keeps the 2 largest of every 4 inputs in a
row, in place of one threshold over all layers.

Deviations: by default m is unstructured, and biases and norm parameters have masks as
well, as in FedSparsify (``prunable=masks.kernels_only`` spares them). d = 2e-4,
SR-STE's, is from memory: its text was not at hand. With masks that stay for a round,
pruned weights run away unseen, and accuracy with them.

Checked against: NumPy, in tests/algorithms/test_ste.py.
"""

from typing import Unpack

import jax
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared import straight_through
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
from fedsparsify_jax.pruning import patterns
from fedsparsify_jax.pruning.patterns import Select
from fedsparsify_jax.pruning.selection import magnitude
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    Schedule,
    Scope,
    State,
    Variables,
)


def ste(
    apply_fn: ApplyFn,
    *,
    pruned_decay: ArrayLike = 0.0,
    final_sparsity: ArrayLike = 0.9,
    rounds: ArrayLike = 200,
    begin: ArrayLike = 1,
    initial_sparsity: ArrayLike = 0.0,
    exponent: ArrayLike = 3.0,
    every: int = 1,
    fine_tune_rounds: int = 0,
    schedule: Schedule | None = None,
    merge: str | ValueMerge = "mean",
    pattern: str = "unstructured",
    scope: Scope = "global",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds training by the straight-through estimator.

    Args:
      apply_fn: the model's forward pass.
      pruned_decay: d, of pruned weights; 2e-4 for SR-STE. May be traced.
      final_sparsity: S_T in [0, 1).
      rounds: T, the last round.
      begin: t0.
      initial_sparsity: S_0.
      exponent: n.
      every: F.
      fine_tune_rounds: the last rounds, at the sparsity S_T; masks still change.
      schedule: any other schedule, in place of the polynomial of the six above.
      merge: a name of `merges.NAMES` or a function of that signature.
      pattern: ``"unstructured"``, or N:M, which keeps M - floor(s_t M) of every M
        inputs but no fewer than N, see `pruning.selector`.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for an unknown name, impossible rounds or a decay below 0.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = ste(model.apply, final_sparsity=0.5, rounds=1, begin=0)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> w = algorithm.model(state)["params"]["Dense_0"]["kernel"]
      >>> bool((w == 0).any()), round(float(info.sparsity), 3)
      (True, 0.5)
    """
    if isinstance(pruned_decay, int | float) and not 0 <= pruned_decay < float("inf"):
        raise ValueError(
            f"pruned_decay is {pruned_decay}: it must be at least 0 and finite"
        )
    if pattern == patterns.CHANNEL:
        raise ValueError(f"pattern is {pattern}: it must be unstructured or N:M")
    select = patterns.selector(pattern, scope=scope, prunable=prunable)
    end = schedules.last_purge(rounds, fine_tune_rounds, schedule)
    schedule = schedule or schedules.polynomial(
        final_sparsity,
        end=end,
        begin=begin,
        initial=initial_sparsity,
        exponent=exponent,
        every=every,
    )
    method = Method(
        schedule=schedule,
        aggregate=aggregate(merge),
        objective=_through_masks(pruned_decay, select),
        project=no_projection,
        upload=Uploader(no_state, straight_through.send_dense),
        server=_remask(select),
        prunable=prunable,
    )
    algorithm = engine(apply_fn, method, **options)

    def model(state: State) -> Variables:
        return mask_algebra.apply(state.masks, algorithm.model(state))

    return algorithm._replace(model=model)


def _through_masks(decay: ArrayLike, select: Select) -> ObjectiveFn:
    def objective(
        loss: BatchLoss, variables: Variables, batch: Batch, key: Key, context: Context
    ) -> tuple[jax.Array, Variables]:
        scores = magnitude(jax.lax.stop_gradient(variables))
        kept = select(scores, context.sparsity, None)
        dense, masks = variables["params"], kept["params"]
        used = straight_through.through(dense, masks)
        value, changed = loss(variables | {"params": used}, batch, key)
        return value + straight_through.penalty(dense, masks, decay), changed

    return objective


def _remask(select: Select) -> ServerTransform:
    """Builds the purge that leaves weights as they are and chooses masks anew."""

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        del key, masks, uploads
        new = select(magnitude(variables), context.sparsity, None)
        return variables, new, context.server

    return stateless(update)

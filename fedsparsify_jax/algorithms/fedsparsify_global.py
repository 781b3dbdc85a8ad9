"""FedSparsify-Global: the server purges after every merge.

Stripelis, Gupta, Ver Steeg and Ambite, *Federated Progressive Sparsification
(Purge-Merge-Tune)+*, arXiv 2204.12430.

In round t = 1, ..., T with masks m (all ones at first) and schedule s_t:

    tune    w_k <- E local epochs from w, weights projected by m at every step
    merge   w   <- sum_k n_k w_k / sum_k n_k
    purge   m   <- the n - floor(s_t n) largest |w| of all layers together, within m
            w   <- m * w

    s_t = S_T + (S_0 - S_T) (1 - (F floor(t/F) - t0) / (T - t0))^n

With S_0 = 0 and t0 = 1 the first purge is in round 2, and S_T is reached by the last
act of round T: nothing is tuned after it, unless ``fine_tune_rounds=R`` moves the end
of the schedule to round T - R. Biases and norm parameters are prunable, running
statistics are not; ``prunable=masks.kernels_only`` spares the former too. Other merges
of the authors' code come by name with ``merge``, see `merges`.

Deviations from the authors' code: the kept count is exact, ties go to the lowest index
(theirs keeps every tie at the threshold); masks are kept as such, while theirs are
re-derived as ``w != 0``, so a kept weight that happens to be zero stays alive here.
Momentum, as theirs, is not masked.

Checked against: dstripelis/FedSparsify 21fb7c3, whose purge and schedule gave the same
masks and targets on random models; a federation written in NumPy in
tests/engine/test_oracle_rounds.py.
"""

from typing import Unpack

from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.purged import purged
from fedsparsify_jax.engine import EngineOptions
from fedsparsify_jax.method import Method
from fedsparsify_jax.types import (
    ApplyFn,
    Criterion,
    FederatedAlgorithm,
    Prunable,
    Schedule,
    Scope,
)


def fedsparsify_global(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    rounds: ArrayLike = 200,
    begin: ArrayLike = 1,
    initial_sparsity: ArrayLike = 0.0,
    exponent: ArrayLike = 3.0,
    every: int = 1,
    fine_tune_rounds: int = 0,
    schedule: Schedule | None = None,
    merge: str | ValueMerge = "mean",
    criterion: Criterion = "magnitude",
    pattern: str = "unstructured",
    scope: Scope = "global",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedSparsify-Global.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S_T in [0, 1).
      rounds: T, the last round.
      begin: t0.
      initial_sparsity: S_0.
      exponent: n.
      every: F.
      fine_tune_rounds: the last rounds, in which nothing is purged any more; S_T is
        reached in round ``rounds - fine_tune_rounds``.
      schedule: any other schedule, in place of the polynomial of the six above.
      merge: a name of `merges.NAMES` or a function of that signature. ``"nonzero"``
        is the mean here, for all clients have the server's masks.
      criterion: by which the server purges, see `_shared.criteria`.
      pattern: of what is purged: single weights, N:M or channels, see `patterns`.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for an unknown name, or impossible rounds of fine-tuning.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = fedsparsify_global(model.apply, final_sparsity=0.5, rounds=2)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> for key in jax.random.split(jax.random.key(2), 2):
      ...     state, info = jax.jit(algorithm.step)(key, state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    end = schedules.last_purge(rounds, fine_tune_rounds, schedule)
    schedule = schedule or schedules.polynomial(
        final_sparsity,
        end=end,
        begin=begin,
        initial=initial_sparsity,
        exponent=exponent,
        every=every,
    )

    method = Method(schedule=schedule, aggregate=aggregate(merge), prunable=prunable)
    return purged(
        apply_fn, method, criterion=criterion, pattern=pattern, scope=scope, **options
    )

"""One-shot pruning: train dense, prune once by magnitude, fine-tune what is left.

The baseline "OneShot" of Stripelis, Gupta, Ver Steeg and Ambite, *Federated Progressive
Sparsification (Purge-Merge-Tune)+*, arXiv 2204.12430.

FedAvg until the end of round p; then

    m <- the n - floor(S n) largest |w| of all layers together;   w <- m * w

and in rounds p + 1, ..., T weights are projected by m at every step.

The authors set the start to round T - 10 ("FineTuning10Rounds", 190 of 200) and purge
only in rounds after it, so that p = T - 9 and nine rounds of tuning remain;
``fine_tune_rounds`` counts as they do. With ``fine_tune_rounds=0`` the prune is the
last act of round T.

Deviations: those of `fedsparsify_global`, which this is with another schedule.

Checked against: dstripelis/FedSparsify 16ead02 (start 190 of 200, purge after it),
read; tests/algorithms/test_random_and_one_shot.py.
"""

from typing import Unpack

from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.algorithms.fedsparsify_global import fedsparsify_global
from fedsparsify_jax.engine import EngineOptions
from fedsparsify_jax.types import (
    ApplyFn,
    Criterion,
    FederatedAlgorithm,
    Prunable,
    Scope,
)


def one_shot(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    rounds: ArrayLike = 200,
    at: ArrayLike | None = None,
    fine_tune_rounds: int = 10,
    criterion: Criterion = "magnitude",
    pattern: str = "unstructured",
    scope: Scope = "global",
    prunable: Prunable | None = None,
    merge: str | ValueMerge = "mean",
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds one-shot pruning.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S in [0, 1).
      rounds: T, the last round.
      at: p, the round that ends with the prune; ``T - fine_tune_rounds + 1`` by
        default (but not before round 1), T if ``fine_tune_rounds`` is 0.
      fine_tune_rounds: rounds from the authors' start to T, the pruning one included.
      criterion: by which the server prunes, see `_shared.criteria`.
      pattern: of what is pruned, see `fedsparsify_global`.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      merge: how the server merges the clients' models: a name of `merges.NAMES` or a
        function of that signature.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: if the prune would not come in rounds 1, ..., T.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = one_shot(model.apply, final_sparsity=0.5, rounds=3, at=2)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> step = jax.jit(algorithm.step)
      >>> for key in jax.random.split(jax.random.key(2), 3):
      ...     state, info = step(key, state, clients)
      ...     print(int(info.round), round(float(info.sparsity), 3))
      1 0.0
      2 0.5
      3 0.5
    """
    if fine_tune_rounds < 0:
        raise ValueError(
            f"fine_tune_rounds is {fine_tune_rounds}: it must be at least 0"
        )
    if at is None:
        at = rounds - max(fine_tune_rounds - 1, 0)
        if isinstance(at, int):
            at = max(at, 1)  # in runs shorter than the fine-tuning
    if isinstance(at, int) and isinstance(rounds, int) and not 1 <= at <= rounds:
        raise ValueError(f"the prune in round {at} is not in rounds 1 to {rounds}")
    return fedsparsify_global(
        apply_fn,
        schedule=schedules.one_shot(final_sparsity, at=at),
        criterion=criterion,
        pattern=pattern,
        scope=scope,
        prunable=prunable,
        merge=merge,
        **options,
    )

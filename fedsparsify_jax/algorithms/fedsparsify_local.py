"""FedSparsify-Local: clients purge, the server takes a majority vote of their masks.

Stripelis, Gupta, Ver Steeg and Ambite, *Federated Progressive Sparsification
(Purge-Merge-Tune)+*, arXiv 2204.12430.

In round t = 1, ..., T with masks m (all ones at first) and schedule s_t:

    tune    w_k <- E local epochs from w, weights projected by m at every step
    purge   m_k <- the n - floor(s_t n) largest |w_k| of all layers together, within m
            w_k <- m_k * w_k
    merge   m   <- [ sum_k m_k >= floor(K/2) ]
            w   <- m * sum_k n_k w_k / sum_k n_k      (zeros of a client count)

The sparsity of the global model is not pinned to s_t: it ends above where the clients'
masks disagree and below where ties keep.

Deviations from the authors' code: kept counts are exact with ties by lowest index, and
masks are kept as such instead of re-derived as ``w != 0`` (see `fedsparsify_global`). A
weight that nobody kept is never elected, which their ``w != 0`` brings about for K = 1.

Ablations are options. ``vote_rule="strict"`` asks for more than K/2 votes.
``vote_rule="none"`` is Local without the vote: the plain merge of the pruned models,
whose mask is the union of the present clients' masks (``w != 0`` in the authors' code,
which also drops a weight whose merge happens to be zero). ``merge="nonzero"`` averages
over those who kept the weight (their "NNZ"); `merges` has more. ``fine_tune_rounds=R``
reaches S_T in round T - R and purges and votes no more after it;
``fine_tune_epochs=F`` lets a client train F epochs more under m_k before its upload
(their ``fine_tuning_epochs``).

Checked against: dstripelis/FedSparsify 21fb7c3 (model_merge.py), whose vote gave the
same models to 6e-8; NumPy in tests/engine/test_oracle_rounds.py and
tests/algorithms/test_ablations.py.
"""

from typing import Unpack

import jax
from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared import criteria
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import Client, Context, Local, Method
from fedsparsify_jax.pruning.selection import prune
from fedsparsify_jax.types import (
    ApplyFn,
    Criterion,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    Schedule,
    Scope,
    VoteRule,
)


def fedsparsify_local(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    rounds: ArrayLike = 200,
    begin: ArrayLike = 1,
    initial_sparsity: ArrayLike = 0.0,
    exponent: ArrayLike = 3.0,
    every: int = 1,
    fine_tune_rounds: int = 0,
    fine_tune_epochs: int = 0,
    schedule: Schedule | None = None,
    vote_rule: VoteRule = "authors",
    merge: str | ValueMerge = "mean",
    criterion: Criterion = "magnitude",
    scope: Scope = "global",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedSparsify-Local.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S_T in [0, 1), of every client's model.
      rounds: T, the last round.
      begin: t0.
      initial_sparsity: S_0.
      exponent: n.
      every: F.
      fine_tune_rounds: the last rounds, in which no mask changes any more; S_T is
        reached in round ``rounds - fine_tune_rounds``.
      fine_tune_epochs: epochs that a client trains after its purge.
      schedule: any other schedule, in place of the polynomial: ``begin`` to
        ``fine_tune_rounds``.
      vote_rule: ``"authors"``, ``"strict"`` or ``"none"``, see `streaming.aggregate`.
      merge: a name of `merges.NAMES` or a function of that signature.
      criterion: by which a client purges, see `_shared.criteria`; those of gradients
        go by its steps of the round, and nothing more is sent.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for an unknown merge or rule, or impossible fine-tuning.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = fedsparsify_local(model.apply, final_sparsity=0.5, rounds=2)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> for key in jax.random.split(jax.random.key(2), 2):
      ...     state, info = jax.jit(algorithm.step)(key, state, clients)
      >>> float(info.target_sparsity)
      0.5
    """
    criteria.check(criterion)
    end = schedules.last_purge(rounds, fine_tune_rounds, schedule)
    schedule = schedule or schedules.polynomial(
        final_sparsity,
        end=end,
        begin=begin,
        initial=initial_sparsity,
        exponent=exponent,
        every=every,
    )

    def purge(key: Key, local: Local, context: Context, client: Client) -> Masks:
        del key, client
        return prune(
            criteria.scores_of_client(criterion, local),
            context.sparsity,
            scope=scope,
            within=local.masks,
            prunable=prunable,
        )

    def purge_until_end(
        key: Key, local: Local, context: Context, client: Client
    ) -> Masks:
        # A model denser than the target (ties keep) would be purged on and on.
        return jax.lax.cond(
            context.round <= end,
            lambda: purge(key, local, context, client),
            lambda: local.masks,
        )

    method = Method(
        schedule=schedule,
        client_prune=purge_until_end if fine_tune_rounds else purge,
        fine_tune_epochs=fine_tune_epochs,
        aggregate=aggregate(merge, vote_rule),
        masks_travel=True,
        prunable=prunable,
    )
    if criterion != "magnitude":
        method = method._replace(gradient=criteria.over_steps(criterion))
    return engine(apply_fn, method, **options)

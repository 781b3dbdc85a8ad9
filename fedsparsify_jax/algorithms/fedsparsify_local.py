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
Rule ``"strict"`` (more than K/2 votes) and ``mean="nonzero"`` (the mean over those who
kept the weight; their "NNZ") are options.
"""

from typing import Unpack

from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation import majority_vote_mean, majority_vote_nonzero_mean
from fedsparsify_jax.hooks import Client, Context, Local, Method, Uploads
from fedsparsify_jax.pruning import magnitude, prune
from fedsparsify_jax.rounds import EngineOptions, engine
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    Schedule,
    Variables,
)

_MEANS = {"all": majority_vote_mean, "nonzero": majority_vote_nonzero_mean}


def fedsparsify_local(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    rounds: ArrayLike = 200,
    begin: ArrayLike = 1,
    initial_sparsity: ArrayLike = 0.0,
    exponent: ArrayLike = 3.0,
    every: int = 1,
    schedule: Schedule | None = None,
    vote_rule: str = "authors",
    mean: str = "all",
    scope: str = "global",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedSparsify-Local.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S_T in [0, 1), of every client's model.
      rounds: T, the round in which S_T is reached.
      begin: t0.
      initial_sparsity: S_0.
      exponent: n.
      every: F.
      schedule: any other schedule, in place of the polynomial of the five above.
      vote_rule: ``"authors"`` or ``"strict"``, see `masks.majority_vote`.
      mean: ``"all"`` averages zeros in, ``"nonzero"`` averages who kept a weight.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `rounds.engine`.

    Example:
      >>> import jax
      >>> from fedsparsify_jax import data, models
      >>> digits = data.load("digits")
      >>> clients = data.stack(digits.train, data.iid(digits.train.y, 10, seed=0))
      >>> model = models.build("mlp", input_shape=(8, 8), num_classes=10)
      >>> algorithm = fedsparsify_local(model.apply, final_sparsity=0.5, rounds=2)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> for key in jax.random.split(jax.random.key(2), 2):
      ...     state, info = jax.jit(algorithm.step)(key, state, clients)
      >>> float(info.target_sparsity)
      0.5
    """
    if mean not in _MEANS:
        raise ValueError(f"unknown mean {mean!r}: 'all' or 'nonzero'")
    schedule = schedule or schedules.polynomial(
        final_sparsity,
        end=rounds,
        begin=begin,
        initial=initial_sparsity,
        exponent=exponent,
        every=every,
    )

    def purge(key: Key, local: Local, context: Context, client: Client) -> Masks:
        del key, client
        return prune(
            magnitude(local.variables),
            context.sparsity,
            scope=scope,
            within=local.masks,
            prunable=prunable,
        )

    def merge(uploads: Uploads, context: Context) -> tuple[Variables, Masks]:
        del context
        merge_fn = _MEANS[mean]
        return merge_fn(
            uploads.variables, uploads.masks, uploads.weights, rule=vote_rule
        )

    method = Method(
        schedule=schedule, client_prune=purge, aggregate=merge, prunable=prunable
    )
    return engine(apply_fn, method, **options)

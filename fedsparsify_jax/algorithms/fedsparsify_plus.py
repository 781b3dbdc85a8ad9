"""FedSparsify-Plus: purge early what is small or never moved, and average the rest.

A method of this library, of parts that others found; docs/fedsparsify_plus.md says what
was tried and how it was chosen. In round t = 1, ..., T with masks m (ones at first),
the first model w_0 and schedule s_t of FedSparsify-Global, but for u T rounds:

    tune     w_k <- E local epochs from w + l m * (w - w_before), by SGD with momentum,
             projected by m
    merge    w   <- sum_k n_k w_k / sum_k n_k
    purge    m   <- the n - floor(s_t n) largest |w| |w - w_0|, within m
             w   <- m * w
    average  a   <- the moving average of w under m, see `engine.wrappers.ema`

and a is the model. Four things differ from FedSparsify-Global, and l = 0:

* Importance is magnitude times the distance from the first model, in the spirit of
  movement pruning (Sanh, Wolf and Rush, arXiv 2005.07683). Weights that never learn, of
  pixels that are always black say, go first, however large they started. The server
  knows both factors, so nobody sends anything for it.
* The last purge is in round u T, and the rounds after it train what is left. Every
  round is at least as sparse as Global's, so the bytes are fewer.
* Clients train with momentum, from zero in every round.
* The model is the average of the last rounds' models, which evens out the swings that
  small cohorts of unlike clients cause.

The second edition is that with ``cohort_sampling="representative"``, and two more:

* The clients of a round together hold nearly the classes of the whole federation, see
  `engine.sampling`. The server is told how many examples of each class a client has,
  which is why this is for the caller to choose.
* Clients start where the last move leads: l = 0.5, FedACG's look-ahead, see
  `engine.wrappers.lookahead`. Such cohorts bear it; among cohorts of unlike clients it
  does harm. Neither costs a byte.

Deviations: none; it is a method of this library.

Checked against: its own description, in NumPy, in
tests/algorithms/test_fedsparsify_plus.py.
"""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.server_purge import purge_by
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import Method, ServerTransform
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Masks,
    Prunable,
    PyTree,
    Scope,
    Scores,
    Variables,
)

MOMENTUM, AVERAGE, LOOKAHEAD = 0.9, 0.9, 0.5
"""Momentum of the clients' SGD, decay of the averaged model, and the look-ahead of
representative cohorts, by default."""


def importance(variables: Variables, first: Variables) -> Scores:
    """Returns magnitude times the distance from the first model.

    Args:
      variables: the model.
      first: w_0, the same structure.

    Example:
      >>> w, first = jnp.array([-2.0, 3.0]), jnp.array([1.0, 3.0])
      >>> importance({"w": w}, {"w": first})["w"].tolist()
      [6.0, 0.0]
    """
    return jax.tree.map(lambda w, w_0: jnp.abs(w) * jnp.abs(w - w_0), variables, first)


def movement_purge(
    *, scope: Scope = "global", prunable: Prunable | None = None
) -> ServerTransform:
    """Builds the purge of what is small or never moved; its state is w_0.

    Args:
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
    """

    def first_model(variables: Variables, masks: Masks) -> PyTree:
        # Copied: a donated state may not hold an array twice.
        return jax.tree.map(jnp.copy, variables)

    return purge_by(
        lambda variables, context: importance(variables, context.server),
        scope=scope,
        prunable=prunable,
        init=first_model,
    )


def fedsparsify_plus(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    rounds: ArrayLike = 200,
    begin: ArrayLike = 1,
    initial_sparsity: ArrayLike = 0.0,
    exponent: ArrayLike = 3.0,
    every: int = 1,
    purge_until: float = 0.7,
    scope: Scope = "global",
    merge: str | ValueMerge = "mean",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedSparsify-Plus.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S_T in [0, 1).
      rounds: T, the last round.
      begin: t0.
      initial_sparsity: S_0.
      exponent: n.
      every: F.
      purge_until: u in (0, 1], the share of the rounds in which weights are purged.
      scope: what shares a threshold, see `pruning.prune`.
      merge: how the server merges the clients' models: a name of `merges.NAMES` or a
        function of that signature.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`; ``momentum`` and ``server_ema`` are 0.9
        unless given, and so is ``server_lookahead`` 0.5 with the ``cohort_sampling``
        representative.

    Raises:
      ValueError: for a ``purge_until`` outside its range.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = fedsparsify_plus(model.apply, final_sparsity=0.5, rounds=2)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> for key in jax.random.split(jax.random.key(2), 2):
      ...     state, info = jax.jit(algorithm.step)(key, state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    if not 0 < purge_until <= 1:
        raise ValueError(
            f"purge_until is {purge_until}: it must be above 0 and at most 1"
        )
    if options.get("server_ema") is None:
        options["server_ema"] = AVERAGE
    alike = options.get("cohort_sampling") == "representative"
    if alike and options.get("server_lookahead") is None:
        options["server_lookahead"] = LOOKAHEAD
    options.setdefault("momentum", MOMENTUM)
    schedule = schedules.polynomial(
        final_sparsity,
        end=purge_until * rounds,
        begin=begin,
        initial=initial_sparsity,
        exponent=exponent,
        every=every,
    )

    method = Method(
        schedule=schedule,
        aggregate=aggregate(merge),
        server=movement_purge(scope=scope, prunable=prunable),
        prunable=prunable,
    )
    return engine(apply_fn, method, **options)

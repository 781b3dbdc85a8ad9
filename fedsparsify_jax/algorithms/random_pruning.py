"""Random pruning: FedSparsify-Global with a random order in place of magnitudes.

The baseline "Random" of Stripelis, Gupta, Ver Steeg and Ambite, *Federated Progressive
Sparsification (Purge-Merge-Tune)+*, arXiv 2204.12430.

A permutation of all prunable parameters is drawn once, in round 1. In round t:

    tune    w_k <- E local epochs from w, weights projected by m at every step
    merge   w   <- sum_k n_k w_k / sum_k n_k
    purge   m   <- the n - floor(s_t n) first parameters of the permutation
            w   <- m * w

with the schedule s_t of FedSparsify.

Deviations: none known. The permutation is kept as a 32-bit seed in ``State.server`` and
drawn again every round, which costs no memory between rounds; runs of the same keys
and different final sparsities have nested masks.

Checked against: dstripelis/FedSparsify 21fb7c3 (model_purge.py), read; counts and
nesting in tests/algorithms/test_random_and_one_shot.py.
"""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.masks import apply
from fedsparsify_jax.method import Context, Method, ServerTransform, Uploads
from fedsparsify_jax.pruning import saliency
from fedsparsify_jax.pruning.selection import prune
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    Schedule,
    Scope,
    Variables,
)


def random_pruning(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    rounds: ArrayLike = 200,
    begin: ArrayLike = 1,
    initial_sparsity: ArrayLike = 0.0,
    exponent: ArrayLike = 3.0,
    every: int = 1,
    schedule: Schedule | None = None,
    scope: Scope = "global",
    prunable: Prunable | None = None,
    merge: str | ValueMerge = "mean",
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds random pruning.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S_T in [0, 1).
      rounds: T, the round in which S_T is reached.
      begin: t0.
      initial_sparsity: S_0.
      exponent: n.
      every: F.
      schedule: any other schedule, in place of the polynomial of the five above.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      merge: how the server merges the clients' models: a name of `merges.NAMES` or a
        function of that signature.
      **options: see `engine.options.Options`.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = random_pruning(model.apply, final_sparsity=0.5, rounds=2)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> for key in jax.random.split(jax.random.key(2), 2):
      ...     state, info = jax.jit(algorithm.step)(key, state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    schedule = schedule or schedules.polynomial(
        final_sparsity,
        end=rounds,
        begin=begin,
        initial=initial_sparsity,
        exponent=exponent,
        every=every,
    )

    def no_seed(variables: Variables, masks: Masks) -> PyTree:
        return jnp.uint32(0)

    def purge(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        fresh = jax.random.bits(key, dtype=jnp.uint32)
        seed = jnp.where(context.round == 1, fresh, context.server)
        masks = prune(
            saliency.random(jax.random.key(seed), variables),
            context.sparsity,
            scope=scope,
            within=masks,
            prunable=prunable,
        )
        return apply(masks, variables), masks, seed

    method = Method(
        schedule=schedule,
        aggregate=aggregate(merge),
        server=ServerTransform(no_seed, purge),
        prunable=prunable,
    )
    return engine(apply_fn, method, **options)

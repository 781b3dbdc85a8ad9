"""FedSparsify-Plus: purge what is small *and* at rest, early, and average the rest.

A method of this library, of parts that others found; docs/fedsparsify_plus.md says
what was tried and how it was chosen. In round t = 1, ..., T with masks m (all ones at
first), v = 0 and schedule s_t:

    tune     w_k <- E local epochs from w by SGD with momentum, projected by m
    merge    w'  <- sum_k n_k w_k / sum_k n_k
    observe  v   <- nu v + (1 - nu) (w' - w)^2
    purge    m   <- the n - floor(s_t n) largest |w'| sqrt(v), within m
             w   <- m * w'
    average  a   <- the moving average of w under m, see `server_average`

and a is the model. Four things differ from FedSparsify-Global:

* Importance is magnitude times the size of recent moves, to first order what
  the loss would notice (Molchanov et al., arXiv 1611.06440). Weights that never learn,
  such as those of pixels that are always black, go first, however large they started.
  The server sees both factors; nobody sends anything for it.
* The purge ends in round u T and the rest of the rounds trains what is left. The
  exponent is lowered to (n + 1) u - 1, so that the sum of the densities, and so the
  bytes, are no more than those of Global with exponent n up to round T.
* Clients train with momentum, from zero in every round.
* The model is the average of the last rounds' models, which evens out the swings that
  small cohorts of unlike clients cause.
"""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.hooks import Context, Method, Uploads
from fedsparsify_jax.masks import apply
from fedsparsify_jax.pruning import prune
from fedsparsify_jax.rounds import EngineOptions, engine
from fedsparsify_jax.streams import weighted_mean
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    Scores,
    Variables,
)

MOMENTUM, AVERAGE = 0.9, 0.9
"""Of the clients' SGD and of the averaged model, unless they are given."""


def importance(variables: Variables, moves: Variables) -> Scores:
    """Magnitude times the root of the mean squared move.

    Args:
      variables: the merged model.
      moves: moving averages of its squared changes, the same structure.

    Example:
      >>> w, v = jnp.array([-2.0, 3.0]), jnp.array([4.0, 0.0])
      >>> importance({"w": w}, {"w": v})["w"].tolist()
      [4.0, 0.0]
    """
    return jax.tree.map(lambda w, v: jnp.abs(w) * jnp.sqrt(v), variables, moves)


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
    memory: ArrayLike = 0.98,
    scope: str = "global",
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
      exponent: n, of the schedule of FedSparsify-Global whose bytes may be spent.
      every: F.
      purge_until: u in (1 / (n + 1), 1], the share of the rounds after which nothing is
        purged any more.
      memory: nu in [0, 1), of the squared moves; may be traced.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `rounds.engine`; ``momentum`` and ``server_ema`` are 0.9 unless
        given.

    Raises:
      ValueError: for a ``purge_until`` outside its range.

    Example:
      >>> from fedsparsify_jax import data, models
      >>> digits = data.load("digits")
      >>> clients = data.stack(digits.train, data.iid(digits.train.y, 10, seed=0))
      >>> model = models.build("mlp", input_shape=(8, 8), num_classes=10)
      >>> algorithm = fedsparsify_plus(model.apply, final_sparsity=0.5, rounds=2)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> for key in jax.random.split(jax.random.key(2), 2):
      ...     state, info = jax.jit(algorithm.step)(key, state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    lowered = (exponent + 1) * purge_until - 1
    if purge_until > 1 or (isinstance(lowered, int | float) and lowered <= 0):
        raise ValueError(
            f"purge_until is {purge_until}: it must be above 1 / (exponent + 1) and at "
            "most 1"
        )
    if options.get("server_ema") is None:
        options["server_ema"] = AVERAGE
    options.setdefault("momentum", MOMENTUM)
    schedule = schedules.polynomial(
        final_sparsity,
        end=purge_until * rounds,
        begin=begin,
        initial=initial_sparsity,
        exponent=lowered,
        every=every,
    )

    def nothing_moved(variables: Variables, masks: Masks) -> PyTree:
        del masks
        return jax.tree.map(jnp.zeros_like, variables)

    def purge(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        del key, uploads
        moves = jax.tree.map(
            lambda v, new, old: memory * v + (1 - memory) * jnp.square(new - old),
            context.server,
            variables,
            context.variables,
        )
        masks = prune(
            importance(variables, moves),
            context.sparsity,
            scope=scope,
            within=masks,
            prunable=prunable,
        )
        return apply(masks, variables), masks, moves

    method = Method(
        schedule=schedule,
        aggregate=weighted_mean(),
        server_state=nothing_moved,
        server_update=purge,
        prunable=prunable,
    )
    return engine(apply_fn, method, **options)

"""HALO: a lasso whose strength is trained for every weight.

Seto, Wells and Zhang, *HALO: Learning to Prune Neural Networks with Shrinkage*, SDM
2021, arXiv 2008.10183.

Client k trains weights w and, for every kernel's weight j, lambda_j (1 at first) on

    F_k(w) + P(w, lambda),   P  =  xi sum_j |w_j| / lambda_j^2 + psi sum_j |lambda_j|

by steps of its optimizer on w, and beside each of them

    lambda_j  <-  lambda_j - rate (1 - 2 (xi / psi) |w_j| / lambda_j^3)

so that small weights are pulled to zero harder and harder, and large ones are let be:
where lambda is at rest, P is 1.9 (xi psi^2)^(1/3) sum_j |w_j|^(1/3). The server
averages as in FedAvg and purges the smallest |w|, on the schedule of FedSparsify, or
once in round ``at`` (T for the authors' threshold without fine-tuning). lambda is

    local        kept by the client for its next time; nothing more is sent
    averaged     sent, both ways, and averaged like the weights; 32 bits for each that
                 is not pruned
    closed-form  (2 (xi / psi) |w_j|)^(1/3) of the round's global model; nothing is kept
    frozen       1: the lasso, ``xi sum_j |w_j|``, their L1 baseline

Deviations: the authors have convolutions alone under the penalty, here all kernels that
may be pruned are. They step w and lambda by one SGD with momentum and a decay of 1e-4,
for 125,000 steps; with their xi = psi = 1e-8 that decay does most of what happens to
lambda. Federated runs make a tenth of the steps, so xi and psi are 100 times theirs,
lambda has a rate of its own, in units of 1 / psi, and no decay. lambda is at least 0.05
(`lasso.LEAST`), without which such steps overshoot. The training loss that a round
reports contains P.

Checked against: NumPy, rounds of every kind, in tests/algorithms/test_halo.py; the
authors' code, which must not be spread, was not looked at for this.
"""

from typing import Unpack, get_args

import jax
from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared import lambdas, lasso
from fedsparsify_jax.algorithms._shared.server_purge import purge_by
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import (
    Batch,
    BatchLoss,
    Context,
    Method,
    ObjectiveFn,
    chain,
)
from fedsparsify_jax.pruning.selection import magnitude
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Key,
    Penalties,
    Prunable,
    Schedule,
    Scope,
    Variables,
)


def halo(
    apply_fn: ApplyFn,
    *,
    penalties: Penalties = "local",
    xi: ArrayLike = 1e-6,
    psi: ArrayLike = 1e-6,
    penalty_rate: ArrayLike = 0.01,
    final_sparsity: ArrayLike = 0.9,
    rounds: ArrayLike = 200,
    at: ArrayLike | None = None,
    begin: ArrayLike = 1,
    exponent: ArrayLike = 3.0,
    every: int = 1,
    fine_tune_rounds: int = 0,
    schedule: Schedule | None = None,
    merge: str | ValueMerge = "mean",
    scope: Scope = "global",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds HALO.

    Args:
      apply_fn: the model's forward pass.
      penalties: whose lambda is trained, see above; ``"local"`` needs ``num_clients``
        and keeps an array of the kernels' shapes for each of them.
      xi: weight of the lasso; 0 trains as `fedsparsify_global` does.
      psi: weight of the pull that makes lambda small.
      penalty_rate: of lambda's steps; 0 leaves lambda at 1.
      final_sparsity: S_T in [0, 1).
      rounds: T, the last round.
      at: round of the only purge; None purges on the schedule.
      begin: t0.
      exponent: n.
      every: F.
      fine_tune_rounds: the last rounds, in which nothing is purged any more.
      schedule: any other schedule, in place of the polynomial of the last six.
      merge: a name of `merges.NAMES` or a function of that signature.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for an unknown kind of penalties or weights out of range.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = halo(model.apply, penalties="closed-form", rounds=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.target_sparsity), 3)
      0.9
    """
    _check(penalties, xi, psi, penalty_rate)
    if at is not None:
        schedule = schedules.one_shot(final_sparsity, at=at)
        fine_tune_rounds = 0
    prunable = lambdas.others(prunable)
    end = schedules.last_purge(rounds, fine_tune_rounds, schedule)
    schedule = schedule or schedules.polynomial(
        final_sparsity, end=end, begin=begin, exponent=exponent, every=every
    )
    purge = purge_by(
        lambda variables, context: magnitude(variables), scope=scope, prunable=prunable
    )
    method = Method(
        schedule=schedule,
        aggregate=aggregate(merge),
        objective=_shrinking(penalties, xi, psi, penalty_rate, prunable),
        project=lambdas.projection(prunable),
        server=purge,
        prunable=prunable,
    )
    if penalties == "local":
        method = lambdas.kept_by_clients(method)
    elif penalties == "averaged":
        method = method._replace(server=chain(purge, lambdas.forgetting(prunable)))
    algorithm = engine(apply_fn, method, **options)
    if penalties == "averaged":
        algorithm = lambdas.sending(algorithm, prunable)
    return algorithm


def _check(
    penalties: str, xi: ArrayLike, psi: ArrayLike, penalty_rate: ArrayLike
) -> None:
    if penalties not in get_args(Penalties):
        raise ValueError(
            f"unknown penalties {penalties!r}: {', '.join(get_args(Penalties))}"
        )
    numbers = {"xi": xi, "penalty_rate": penalty_rate}
    for name, number in numbers.items():
        if isinstance(number, int | float) and not 0 <= number < float("inf"):
            raise ValueError(f"{name} is {number}: it must be at least 0 and finite")
    if isinstance(psi, int | float) and not 0 < psi < float("inf"):
        raise ValueError(f"psi is {psi}: it must be above 0 and finite")


def _shrinking(
    penalties: Penalties,
    xi: ArrayLike,
    psi: ArrayLike,
    rate: ArrayLike,
    prunable: Prunable | None,
) -> ObjectiveFn:
    """Builds the objective, which steps lambda like a collection of statistics."""

    def objective(
        loss: BatchLoss, variables: Variables, batch: Batch, key: Key, context: Context
    ) -> tuple[jax.Array, Variables]:
        trained = {n: v for n, v in variables.items() if n != lambdas.COLLECTION}
        value, changed = loss(trained, batch, key)
        weights = lasso.penalised(trained, prunable)
        strengths = variables.get(lambdas.COLLECTION)
        if penalties == "closed-form":
            now = lasso.penalised(context.variables, prunable)
            strengths = lasso.closed_form(now, xi / psi)
        elif strengths is not None:
            new = lasso.stepped(weights, strengths, xi / psi, rate)
            changed = changed | {lambdas.COLLECTION: new}
        return value + lasso.penalty(weights, strengths, xi, psi), changed

    return objective

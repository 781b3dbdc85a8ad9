"""FedDST: clients drop and regrow weights, the server prunes the union back.

Bibikar, Vikalo, Wang and Chen, *Federated Dynamic Sparse Training: Computing Less,
Communicating Less, Yet Learning Better*, AAAI 2022, arXiv 2112.09824, algorithm 1.

Layer l keeps c_l weights, from the sparsity S by ERK; the first masks keep the largest
|w_0| of every layer. In round t, client k trains E_1 epochs from (w, m). In every A-th
round up to H = R/2, layer by layer, with g the dense gradient of a batch,

    drop   the floor(alpha_t c_l) smallest |w_k| of m_k
    grow   as many largest |g| among the positions then pruned, at weight zero

and it trains E - E_1 epochs more under its masks. It uploads w_k and m_k; the server
merges, position by position (0 where no client keeps one), and prunes the union back:

    v  <-  sum_k n_k m_k                    the votes
    w  <-  sum_k n_k m_k w_k / v
    m  <-  the c_l largest |w| of every layer with v > 0; of equal |w| those with the
           most votes, then those of the lowest index

    alpha_t  =  alpha/2 (1 + cos(pi (t - 1) / H)), or alpha throughout

``variant="authors"`` is the timing of the published code: rounds 2, A + 2, ..., no
training after growth (E_1 = E) and a constant alpha. Weights that were just grown are
then zero when the server prunes, and few of them survive.

Deviations: E_1 = E // 2 by default, as in the FedPruning port, for the published code
does not train what it grows; the text of algorithm 1 was not at hand. Kept counts are
exact. The gradient is that of a batch drawn for it, where the code takes the last one
again. A weight dropped and grown in the same step keeps its value, as in RigL; the
code ranks gradients over all positions, which resets strong weights and loses others.
The first adjustment is in round 1. Their "erk" is ``allocation="erk_feddst"``. Vectors
(biases, norm parameters) stay dense and count against the budget.

Checked against: bibikar/feddst 25d6184 and FedPruning/FedPruning 7069881, read; the
drop, growth, merge and whole rounds against NumPy in tests/algorithms/test_feddst.py.
"""

from typing import Unpack, get_args

from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.algorithms._shared import adjustment
from fedsparsify_jax.algorithms._shared.proximal import proximal
from fedsparsify_jax.engine import EngineOptions, engine, resolve
from fedsparsify_jax.method import Method
from fedsparsify_jax.pruning.regrowth import replaced_share
from fedsparsify_jax.training.local import batch_loss
from fedsparsify_jax.types import (
    Allocation,
    ApplyFn,
    Decay,
    FederatedAlgorithm,
    FirstMasks,
    Prunable,
    Variant,
)


def feddst(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.8,
    rounds: ArrayLike = 200,
    interval: int = 10,
    alpha: ArrayLike = 0.5,
    decay: Decay | None = None,
    adjust_until: ArrayLike | None = None,
    adjust_after: int | None = None,
    first_masks: FirstMasks = "magnitude",
    allocation: Allocation = "erk",
    variant: Variant = "published",
    mu: ArrayLike = 0.0,
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedDST.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S in [0, 1), from the first round on.
      rounds: R.
      interval: A, rounds between adjustments.
      alpha: share of the weights that the first adjustment replaces.
      decay: ``"cosine"`` or ``"constant"``, the course of that share.
      adjust_until: H, where adjustments end; R/2 by default.
      adjust_after: E_1, epochs of a client before it adjusts its masks, from 0 to E;
        E // 2 by default.
      first_masks: ``"magnitude"``, or ``"random"``.
      allocation: ``"erk"``, ``"er"``, ``"erk_feddst"`` or ``"layer"``, see
        `pruning.leaf_counts`.
      variant: ``"authors"`` for the timing of the published code.
      mu: weight of a FedProx term; 0 for none.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for an interval below 1, more epochs than there are, or a name that is
        none of those above.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = feddst(model.apply, final_sparsity=0.5, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    adjustment.check_name("variant", variant, get_args(Variant))
    adjustment.check_name("first_masks", first_masks, get_args(FirstMasks))
    resolved, as_authors = resolve(options), variant == "authors"
    epochs = adjustment.whole_epochs(resolved.local_epochs)
    if adjust_after is None:
        adjust_after = epochs if as_authors else epochs // 2
    adjustment.check_timing(interval, adjust_after, epochs)
    share = replaced_share(
        alpha,
        interval=interval,
        first=2 if as_authors else 1,
        until=rounds / 2 if adjust_until is None else adjust_until,
        decay=decay or ("constant" if as_authors else "cosine"),
    )

    counts = adjustment.budgets(allocation, prunable)
    loss = batch_loss(apply_fn, resolved.loss_fn)
    signal = adjustment.dense_gradient(loss, resolved.batch_size)
    method = Method(
        schedule=schedules.constant(final_sparsity),
        setup=adjustment.first_masks(first_masks, counts, prunable),
        client_prune=adjustment.adjusted_by_clients(signal, share, prunable),
        fine_tune_epochs=epochs - adjust_after,
        aggregate=adjustment.union_of_clients(counts, prunable),
        masks_travel=True,
        grows=True,
        prunable=prunable,
    )
    if not (isinstance(mu, int | float) and mu == 0):
        method = method._replace(objective=proximal(mu))
    options["local_epochs"] = adjust_after
    return engine(apply_fn, method, **options)

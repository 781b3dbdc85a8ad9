"""Static sparse training: one mask by the budgets of layers, drawn before round 1.

The baseline of dynamic sparse training: "static" in Evci, Gale, Menick, Castro and
Elsen, *Rigging the Lottery: Making All Tickets Winners*, ICML 2020, arXiv 1911.11134.

Layer l keeps c_l of its n_l weights, a random choice, where the c_l divide the sparsity
S by ERK or evenly:

    m  <-  for every layer, c_l of its weights
    w  <-  m * w, then FedAvg with weights projected by m at every step

It is `rigl` that replaces nothing, bit for bit.

Deviations: vectors (biases, norm parameters) stay dense and count against the budget of
the Erdos-Renyi rules, where RigL's code counts kernels alone, as
``prunable=masks.kernels_only`` does; ``allocation="layer"`` prunes the first layer like
the others.

Checked against: google-research/rigl d39fc7d, read; counts, and that the mask stays, in
tests/algorithms/test_static.py.
"""

from typing import Unpack, get_args

from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared import adjustment
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import Method
from fedsparsify_jax.types import (
    Allocation,
    ApplyFn,
    FederatedAlgorithm,
    FirstMasks,
    Prunable,
)


def static(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    first_masks: FirstMasks = "random",
    allocation: Allocation = "erk",
    prunable: Prunable | None = None,
    merge: str | ValueMerge = "mean",
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds training under one mask for good.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S in [0, 1), from the first round on.
      first_masks: ``"random"``, or ``"magnitude"``: the largest weights of each layer.
      allocation: ``"erk"``, ``"er"``, ``"erk_feddst"`` or ``"layer"``, see
        `pruning.leaf_counts`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      merge: how the server merges the clients' models: a name of `merges.NAMES` or a
        function of that signature.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for unknown first masks or an unknown merge.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = static(model.apply, final_sparsity=0.5, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    adjustment.check_name("first_masks", first_masks, get_args(FirstMasks))
    counts = adjustment.budgets(allocation, prunable)
    method = Method(
        schedule=schedules.constant(final_sparsity),
        setup=adjustment.first_masks(first_masks, counts, prunable),
        aggregate=aggregate(merge),
        prunable=prunable,
    )
    return engine(apply_fn, method, **options)

"""GraSP: one mask before training that keeps the gradient flowing.

Wang, Zhang and Grosse, *Picking Winning Tickets Before Training by Preserving Gradient
Flow*, ICLR 2020, arXiv 2002.07376; as a federated baseline in Stripelis et al., arXiv
2204.12430.

At the initial model w, with g and H gradient and Hessian of the loss on one mini-batch,
logits divided by a temperature:

    m  <- the n - floor(S n) largest w * (H g) of all layers together
    w  <- m * w, then FedAvg with weights projected by m at every step

The score is signed: the paper removes the largest ``-w * H g``. Kernels are ranked;
biases and norm parameters stay dense. ``prunable=None`` ranks all parameters,
as FedSparsify's baseline does: those that start at zero then score zero, fall out, and
never train.

Deviations: one random batch of one random client without class balance and without
temperature are the defaults, as in FedSparsify's baseline (the paper: 10 or 25 examples
a class and temperature 200: ``examples_per_class=10, temperature=200.0``).
``source="cohort"`` averages ``w * H g`` over the cohort, each client with its own g and
H. ``freeze_zero_initialized`` is explained in `snip`. FedSparsify's baseline takes the
first batch in the order of storage, and scores another random start than the one that
it trains.

Checked against: alecwangcq/GraSP f17d87a and dstripelis/FedSparsify 21fb7c3, read; an
explicit Hessian in tests/pruning/test_saliency.py.
"""

from typing import Unpack

from jax.typing import ArrayLike

from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.algorithms._shared.before_training import by_gradients
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.masks import kernels_only
from fedsparsify_jax.pruning import saliency
from fedsparsify_jax.types import ApplyFn, FederatedAlgorithm, Prunable, Scope, Source


def grasp(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    temperature: ArrayLike = 1.0,
    source: Source = "client",
    score_batch_size: int | None = None,
    scope: Scope = "global",
    examples_per_class: int | None = None,
    prunable: Prunable | None = kernels_only,
    freeze_zero_initialized: bool = False,
    merge: str | ValueMerge = "mean",
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds GraSP.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S in [0, 1), from the first round on.
      temperature: what outputs are divided by before the loss; may be traced.
      source: ``"client"`` or ``"cohort"``, whose batches are scored.
      score_batch_size: examples in such a batch; the training's ``batch_size`` by
        default.
      scope: what shares a threshold, see `pruning.prune`.
      examples_per_class: examples of each class in such a batch, in place of a size.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`; kernels by
        default, None for all parameters.
      freeze_zero_initialized: whether parameters that start at zero stay there.
      merge: how the server merges the clients' models: a name of `merges.NAMES` or a
        function of that signature.
      **options: see `engine.options.Options`.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = grasp(model.apply, final_sparsity=0.5, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    method = by_gradients(
        apply_fn,
        saliency.grasp,
        source=source,
        score_batch_size=score_batch_size,
        temperature=temperature,
        per_class=examples_per_class,
        final_sparsity=final_sparsity,
        scope=scope,
        prunable=prunable,
        freeze_zero_initialized=freeze_zero_initialized,
        merge=merge,
        options=options,
    )
    return engine(apply_fn, method, **options)

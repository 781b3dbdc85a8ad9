"""SNIP: one mask before training, by connection sensitivity.

Lee, Ajanthan and Torr, *SNIP: Single-shot Network Pruning based on Connection
Sensitivity*, ICLR 2019, arXiv 1810.02340; as a federated baseline in Stripelis et al.,
arXiv 2204.12430, and averaged over clients in SSFL (TMLR).

At the initial model w, with g the gradient of the loss on one mini-batch:

    m  <- the n - floor(S n) largest |g * w| of all layers together
    w  <- m * w, then FedAvg with weights projected by m at every step

``source="client"`` takes the first batch of one random client (FedSparsify's baseline);
``"cohort"`` averages |g * w| over the first batches of a round's cohort (SSFL).

All parameters are ranked, as weights and biases are in the authors' code; those that
start at zero score zero and fall out. ``prunable=masks.kernels_only`` ranks kernels
alone, as mil-ad/snip does.

Deviations: norm parameters compete as well (the authors of FedSparsify leave them out
by name); the batch is a random one, where FedSparsify's baseline takes the first in the
order of storage. ``freeze_zero_initialized=True`` reproduces a defect of theirs:
the working mask is re-derived as ``w != 0`` before training, which freezes biases and
norm offsets at zero; the sparsity is then above S. Running statistics, which their
defect freezes too, stay free here.

Checked against: namhoonlee/snip-public f028496, mil-ad/snip and dstripelis/FedSparsify
21fb7c3, read; NumPy in tests/pruning/test_saliency.py.
"""

from typing import Unpack

from jax.typing import ArrayLike

from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.algorithms._shared.before_training import by_gradients
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.pruning import saliency
from fedsparsify_jax.types import ApplyFn, FederatedAlgorithm, Prunable, Scope, Source


def snip(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    source: Source = "client",
    score_batch_size: int | None = None,
    scope: Scope = "global",
    prunable: Prunable | None = None,
    freeze_zero_initialized: bool = False,
    merge: str | ValueMerge = "mean",
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds SNIP.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S in [0, 1), from the first round on.
      source: ``"client"`` or ``"cohort"``, whose batches are scored.
      score_batch_size: examples in such a batch; the training's ``batch_size`` by
        default.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      freeze_zero_initialized: whether parameters that start at zero stay there.
      merge: how the server merges the clients' models: a name of `merges.NAMES` or a
        function of that signature.
      **options: see `engine.options.Options`.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = snip(model.apply, final_sparsity=0.5, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    method = by_gradients(
        apply_fn,
        saliency.snip,
        source=source,
        score_batch_size=score_batch_size,
        temperature=1.0,
        final_sparsity=final_sparsity,
        scope=scope,
        prunable=prunable,
        freeze_zero_initialized=freeze_zero_initialized,
        merge=merge,
        options=options,
    )
    return engine(apply_fn, method, **options)

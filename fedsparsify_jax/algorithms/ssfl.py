"""SSFL: one mask before training, by the connection sensitivity of a cohort.

Ohib, Thapaliya, Dziugaite, Liu, Calhoun and Plis, *SSFL: Discovering Sparse Unified
Subnetworks at Initialization for Efficient Federated Learning*, TMLR, arXiv 2405.09037.

At the initial model w, with g_k the gradient of the loss on a mini-batch of client k:

    s  <-  sum_k n_k |g_k * w| / sum_k n_k     over the clients of a cohort
    m  <-  the n - floor(S n) largest s of all layers together
    w  <-  m * w, then FedAvg with weights projected by m at every step

`snip` with ``source="cohort"`` is the same but for the weights n_k, which are all equal
there, and for the sparsity. The paper has ResNet-18, 100 clients, 10 % of them in a
round, 5 local epochs and 1000 rounds.

Deviations: the cohort that is scored is drawn like that of a round. All parameters are
ranked, as in `snip`; ``prunable=masks.kernels_only`` ranks kernels alone.

Checked against: riohib/SSFL by the notes of this project; weights and masks against
NumPy in tests/algorithms/test_ssfl.py.
"""

from typing import Unpack

from jax.typing import ArrayLike

from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.algorithms._shared.before_training import by_gradients
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.pruning import saliency
from fedsparsify_jax.types import ApplyFn, FederatedAlgorithm, Prunable, Scope


def ssfl(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.7,
    score_batch_size: int | None = None,
    scope: Scope = "global",
    prunable: Prunable | None = None,
    merge: str | ValueMerge = "mean",
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds SSFL.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S in [0, 1), from the first round on.
      score_batch_size: examples of a client's batch that is scored; the training's
        ``batch_size`` by default.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      merge: how the server merges the clients' models: a name of `merges.NAMES` or a
        function of that signature.
      **options: see `engine.options.Options`.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = ssfl(model.apply, final_sparsity=0.5, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    method = by_gradients(
        apply_fn,
        saliency.snip,
        source="cohort",
        score_batch_size=score_batch_size,
        temperature=1.0,
        by_examples=True,
        final_sparsity=final_sparsity,
        scope=scope,
        prunable=prunable,
        freeze_zero_initialized=False,
        merge=merge,
        options=options,
    )
    return engine(apply_fn, method, **options)

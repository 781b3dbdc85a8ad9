"""SparsyFed: clients train powers, and prune what they send.

Guastella, Sani, Iacob, Mora, Bellavista and Lane, *SparsyFed: Sparse Adaptive Federated
Training*, ICLR 2025, arXiv 2504.05153.

The weights that are trained are theta with w = sign(theta) |theta|^beta, see
`training.powerprop`. In round t, from the first one on:

    tune    theta_k <- E local epochs from theta, projected by m at every step
    purge   weights  m_k <- the n - floor(S n) largest |w_k| of all layers together
            update   d_k <- the n - floor(S n) largest |w_k - w|, and w_k <- w + d_k
    merge   theta <- sum_k n_k theta_k / sum_k n_k;  m <- the union of the m_k

``prune_upload`` names the two readings: ``"weights"`` is what summaries of the paper
and a copy of its code have, ``"update"`` what FedPruning's version does.

With beta > 1 a weight at zero has no gradient, so what no client kept never comes back;
what some kept is in the union, whose sparsity is S or below. ``"update"`` prunes
messages alone: the model stays dense.

Deviations: activations are not pruned in the backward pass, which is half of the
paper's saving of computation and none in communication; pruning them needs the layers
of a network from inside. One exponent holds for all layers; the paper has one without
a hyper-parameter too, of every layer by itself. Only kernels are powers. The first
upload of ``"update"`` is sparse like the others, where FedPruning's is dense.

Checked against: summaries of text and codes, neither of which was at hand;
`fedsparsify_local` without a vote and FedAvg that sends the largest changes, bit for
bit, in tests/algorithms/test_sparsyfed.py.
"""

from typing import Unpack, get_args

from jax.typing import ArrayLike

from fedsparsify_jax import schedules
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.adjustment import check_name
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import Client, Context, Local, Method
from fedsparsify_jax.pruning.selection import magnitude, prune
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PruneUpload,
    Scope,
)


def sparsyfed(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    prune_upload: PruneUpload = "weights",
    scope: Scope = "global",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds SparsyFed.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S in [0, 1), of what clients send from the first round on.
      prune_upload: ``"weights"`` or ``"update"``.
      scope: what shares a threshold, see `pruning.prune`; of weights alone.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`; ``powerprop``, beta, is 1.25 here.

    Raises:
      ValueError: for an unknown reading, or another compression of updates that are
        pruned.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = sparsyfed(model.apply, final_sparsity=0.5, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> 0.2 < float(info.sparsity) <= 0.5
      True
    """
    check_name("prune_upload", prune_upload, get_args(PruneUpload))
    options.setdefault("powerprop", 1.25)
    method = Method(aggregate=aggregate("mean"), prunable=prunable)
    if prune_upload == "update":
        if options.get("upload_compression", "none") != "none":
            raise ValueError('prune_upload="update" is an upload_compression already')
        options["upload_compression"] = "topk"
        options["topk_fraction"] = 1 - final_sparsity
        options["error_feedback"] = False
        return engine(apply_fn, method, **options)

    def purge(key: Key, local: Local, context: Context, client: Client) -> Masks:
        del key, client
        return prune(
            magnitude(local.variables),
            context.sparsity,
            scope=scope,
            within=local.masks,
            prunable=prunable,
        )

    method = method._replace(
        schedule=schedules.constant(final_sparsity),
        client_prune=purge,
        aggregate=aggregate("mean", "none"),
        masks_travel=True,
    )
    return engine(apply_fn, method, **options)

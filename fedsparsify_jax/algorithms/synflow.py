"""SynFlow: one mask before training, without data.

Tanaka, Kunin, Yamins and Ganguli, *Pruning neural networks without any data by
iteratively conserving synaptic flow*, NeurIPS 2020, arXiv 2006.05467.

At the initial model w, for i = 1, ..., n (n = 100), with R the sum of the outputs of
the network of weights |m * w| on an input of ones:

    m  <- the (1 - S)^(i/n) share of largest |w| * dR/d|w| of all layers together

then ``w <- m * w`` and FedAvg with weights projected by m at every step.

Kernels compete; biases and norm parameters stay dense. ``prunable=None`` ranks all
parameters: those that start at zero then carry no flow, go first, and never train.

Deviations: scores are divided by R, and kernels halved where float32 overflows (see
`saliency.synflow`). The input is of ones as the network sees it only if the model's
preprocessing makes it so: floats are 1, unsigned bytes 255, which scaling turns into
about 1 and standardisation into something positive.

Checked against: ganguli-lab/Synaptic-Flow 9dfa57a, read; the scores of a small network
by hand in tests/pruning/test_saliency.py.
"""

from typing import Unpack

import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.algorithms._shared.before_training import fixed_masks
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.masks import kernels_only
from fedsparsify_jax.method import Context, no_clients
from fedsparsify_jax.pruning.saliency import synflow_masks
from fedsparsify_jax.types import (
    ApplyFn,
    Cohort,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    Scope,
)


def synflow(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    iterations: int = 100,
    example: ArrayLike | None = None,
    scope: Scope = "global",
    prunable: Prunable | None = kernels_only,
    merge: str | ValueMerge = "mean",
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds SynFlow.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S in [0, 1), from the first round on.
      iterations: n.
      example: the raw input, of the shape of one example or broadcast to it, that
        preprocessing turns into ones; 255 for uint8 data and 1 for others by default.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`; kernels by
        default, None for all parameters.
      merge: how the server merges the clients' models: a name of `merges.NAMES` or a
        function of that signature.
      **options: see `engine.options.Options`.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = synflow(model.apply, final_sparsity=0.5, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}: it must be at least 1")

    def find(key: Key, context: Context, clients: Cohort) -> Masks:
        like = clients.data.x  # of no clients: shape and dtype are all it is
        ones = 255 if like.dtype == jnp.uint8 else 1
        raw = jnp.asarray(ones if example is None else example, like.dtype)
        shape = like.shape[2:]
        x = jnp.broadcast_to(
            raw.reshape((1,) * (len(shape) - raw.ndim) + raw.shape), shape
        )
        return synflow_masks(
            apply_fn,
            context.variables,
            x[jnp.newaxis],
            context.sparsity,
            iterations=iterations,
            scope=scope,
            prunable=prunable,
        )

    method = fixed_masks(
        find,
        clients=no_clients,
        final_sparsity=final_sparsity,
        prunable=prunable,
        merge=merge,
    )
    return engine(apply_fn, method, **options)

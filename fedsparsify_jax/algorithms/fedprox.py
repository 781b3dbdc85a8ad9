"""FedProx: local training held near the global model.

Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, *Federated Optimization in Heterogeneous
Networks*, MLSys 2020, arXiv 1812.06127, algorithm 2.

In round t, client k minimises by E local epochs from the global model w_t

    h_k(w) = F_k(w) + mu/2 ||w - w_t||^2        (over the parameters)

and the server averages as in FedAvg, ``w <- sum_k n_k w_k / sum_k n_k``.

Deviations: every client does E whole epochs (the paper allows inexact, uneven work) and
the mean is weighted by examples (the paper samples clients by weight and averages
plainly). ``anchor="zero"`` is a defect of the FedSparsify authors' baseline: the slot
of the anchor stays zero, so that ``mu/2 ||w||^2`` is plain weight decay. Their mu is
0.001, 0.0001 for VGG-16. The training loss that a round reports contains the proximal
term.

Checked against: litian96/FedProx and dstripelis/FedSparsify 21fb7c3 (fed_prox.py),
read; rounds in NumPy in tests/algorithms/test_fedprox_and_fedopt.py.
"""

from typing import Unpack

from jax.typing import ArrayLike

from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.proximal import proximal
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import Method, no_projection
from fedsparsify_jax.types import Anchor, ApplyFn, FederatedAlgorithm


def fedprox(
    apply_fn: ApplyFn,
    *,
    mu: ArrayLike = 0.001,
    anchor: Anchor = "global",
    merge: str | ValueMerge = "mean",
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedProx.

    Args:
      apply_fn: the model's forward pass.
      mu: weight of the proximal term; 0 is FedAvg.
      anchor: ``"global"`` as published, ``"zero"`` for the authors' defect.
      merge: how the server merges the clients' models: a name of `merges.NAMES` or a
        function of that signature.
      **options: see `engine.options.Options`.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = fedprox(model.apply, mu=0.1, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> int(state.round), float(info.sparsity)
      (1, 0.0)
    """

    method = Method(
        aggregate=aggregate(merge),
        objective=proximal(mu, anchor),
        project=no_projection,
    )
    return engine(apply_fn, method, **options)

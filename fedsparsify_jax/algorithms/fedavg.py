"""FedAvg: the dense baseline.

McMahan, Moore, Ramage, Hampson and Aguera y Arcas, *Communication-Efficient Learning of
Deep Networks from Decentralized Data*, AISTATS 2017, arXiv 1602.05629, algorithm 1.

In round t, every client k of the cohort starts from the global model w and runs E local
epochs of SGD on its n_k examples; then

    w  <-  sum_k n_k w_k / sum_k n_k            (over the cohort)

Deviations: none. (The paper's ``m = max(C N, 1)`` clients a round is
``floor(participation * N)`` here, and selecting nobody is an error.)

Checked against: rounds worked out by hand (tests/engine/test_goldens.py) and a
federation written in NumPy (tests/engine/test_oracle_rounds.py).
"""

from typing import Unpack

from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import Method, no_projection
from fedsparsify_jax.types import ApplyFn, FederatedAlgorithm


def fedavg(
    apply_fn: ApplyFn,
    *,
    merge: str | ValueMerge = "mean",
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedAvg.

    Args:
      apply_fn: the model's forward pass.
      merge: how the server merges the clients' models: a name of `merges.NAMES` or a
        function of that signature.
      **options: see `engine.options.Options`.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = fedavg(model.apply, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> int(state.round), float(info.sparsity)
      (1, 0.0)
    """

    method = Method(aggregate=aggregate(merge), project=no_projection)
    return engine(apply_fn, method, **options)

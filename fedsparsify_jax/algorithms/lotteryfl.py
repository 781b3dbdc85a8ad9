"""LotteryFL: every client draws a lottery ticket of its own from the server's model.

Li, Sun, Wang, Duan, Li, Chen and Li, *LotteryFL: Personalized and Communication-
Efficient Federated Learning with Lottery Ticket Hypothesis on Non-IID Datasets*, arXiv
2008.03371.

Client k keeps masks m_k (all ones at first), w_0 is the initial model. In round t:

    send    m_k * w
    purge   if m_k * w is right on more than a share A of the client's examples, and m_k
            keeps more than 1 - S of the prunable weights:
              m_k <- without the floor(p c_l) smallest |w| of the c_l that it keeps, in
                     every layer l;  w_k <- m_k * w_0     (rewinding)
            else w_k <- m_k * w
    tune    w_k <- E local epochs from w_k, projected by m_k
    merge   w   <- the mean of w_k over the clients that keep a weight, all counting the
                   same; w stays where no client does

m_k only shrinks. The model of a client, which `client_model` gives and
``--client-evaluation`` judges, is m_k * w; the global model is dense.

Deviations: accuracy is that on all of the client's training examples. Running
statistics are not rewound. Vectors may be pruned too, unless ``prunable`` spares them,
as the command line's default does. A, p and S are those of their code for MNIST (S 0.5
for CIFAR-10); runs there have 400 clients, 5 % of them a round, and 60 local epochs.

Checked against: the authors' code, by the notes of this project; rounds against NumPy
in tests/algorithms/test_lotteryfl.py.
"""

from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.algorithms._shared.holders import over_holders
from fedsparsify_jax.engine import EngineOptions, engine, resolve
from fedsparsify_jax.engine.records import without_residual
from fedsparsify_jax.method import (
    Client,
    Context,
    Local,
    Method,
    ServerTransform,
    Upload,
    Uploader,
    Uploads,
)
from fedsparsify_jax.metrics.communication import kept_bytes
from fedsparsify_jax.pruning.selection import drop_share, magnitude
from fedsparsify_jax.training.losses import correct
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    State,
    Variables,
)


def local_accuracy(
    apply_fn: ApplyFn, variables: Variables, data: ClientData, batch_size: int
) -> jax.Array:
    """Computes the share of one client's examples that a model is right on: float32.

    Raises:
      ValueError: for targets that are no classes.
    """
    if not jnp.issubdtype(data.y.dtype, jnp.integer):
        raise ValueError("LotteryFL goes by accuracy: its targets must be classes")
    length = data.y.shape[0]
    slots = jnp.arange(-(-length // batch_size) * batch_size).reshape(-1, batch_size)

    def batch(total: jax.Array, slot: jax.Array) -> tuple[jax.Array, None]:
        valid = slot < data.sizes
        row = jnp.where(valid, slot, 0)
        outputs, _ = apply_fn(variables, data.x[row])
        right = jnp.where(valid, correct(outputs, data.y[row]), 0.0)
        return total + jnp.sum(right, dtype=jnp.float32), None

    total, _ = jax.lax.scan(batch, jnp.float32(0), slots)
    return total / jnp.maximum(data.sizes, 1)


def _tickets(
    accuracy: Callable[[Variables, ClientData], jax.Array],
    threshold: ArrayLike,
    share: ArrayLike,
    final_sparsity: ArrayLike,
    prunable: Prunable | None,
) -> Callable[[Context, Client], tuple[Variables, Masks]]:
    """Builds what a client starts from: its ticket, which it may have made smaller."""

    def receive(context: Context, client: Client) -> tuple[Variables, Masks]:
        masks = client.state
        w = mask_algebra.apply(masks, context.variables)
        sparse = mask_algebra.sparsity(masks, prunable)
        purges = (accuracy(w, client.data) > threshold) & (sparse < final_sparsity)
        smaller = drop_share(magnitude(w), masks, share, prunable=prunable)
        rewound = w | mask_algebra.apply(
            {"params": smaller["params"]}, {"params": context.server["params"]}
        )
        start: tuple[Variables, Masks] = trees.where(
            purges, (rewound, smaller), (w, masks)
        )
        return start

    return receive


def _send(
    key: Key, local: Local, context: Context, client: Client
) -> tuple[Upload, PyTree]:
    del key, context, client
    return Upload(local.variables, local.masks), local.masks


def _keep_initial() -> ServerTransform:
    """Builds the state of the server: the initial parameters."""

    def init(variables: Variables, masks: Masks) -> PyTree:
        # Copied: a donated state may not hold an array twice.
        return {"params": jax.tree.map(jnp.copy, variables["params"])}

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        return variables, masks, context.server

    return ServerTransform(init, update)


def lotteryfl(
    apply_fn: ApplyFn,
    *,
    accuracy_threshold: ArrayLike = 0.2,
    prune_rate: ArrayLike = 0.2,
    final_sparsity: ArrayLike = 0.9,
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds LotteryFL, which needs ``num_clients`` and keeps masks for each of them.

    Args:
      apply_fn: the model's forward pass.
      accuracy_threshold: A in [0, 1], above which a client purges.
      prune_rate: p in [0, 1), share of what a layer keeps that a purge removes.
      final_sparsity: S in [0, 1); no client purges once its masks have that.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for a number out of range; when the round is traced, for targets that
        are no classes.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = lotteryfl(model.apply, accuracy_threshold=0.0, num_clients=10)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, _ = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> mine = algorithm.client_model(state, 3)["params"]["Dense_0"]["kernel"]
      >>> round(float((mine == 0).mean()), 2)
      0.2
    """
    numbers = {"accuracy_threshold": accuracy_threshold, "prune_rate": prune_rate}
    for name, number in numbers.items():
        if isinstance(number, int | float) and not 0 <= number <= 1:
            raise ValueError(f"{name} is {number}: it must be from 0 to 1")
    batch_size = resolve(options).batch_size

    def accuracy(variables: Variables, data: ClientData) -> jax.Array:
        return local_accuracy(apply_fn, variables, data, batch_size)

    method = Method(
        aggregate=over_holders(by_examples=False),
        receive=_tickets(
            accuracy, accuracy_threshold, prune_rate, final_sparsity, prunable
        ),
        received_bytes=lambda context, client: kept_bytes(client.state),
        upload=Uploader(lambda variables, masks: masks, _send),
        server=_keep_initial(),
        masks_travel=True,
        prunable=prunable,
    )
    algorithm = engine(apply_fn, method, **options)

    def client_model(state: State, client: jax.Array) -> Variables:
        masks = trees.take(without_residual(state.clients.extra), client)
        return mask_algebra.apply(masks, algorithm.model(state))

    return algorithm._replace(client_model=client_model)

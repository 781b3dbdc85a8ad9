"""DisPFL: clients with sparse models of their own, averaged with their neighbours'.

Dai, Shen, He, Tian and Tao, *DisPFL: Towards Communication-Efficient Personalized
Federated Learning via Decentralized Sparse Training*, ICML 2022, arXiv 2206.00187: a
decentralised FedSpa (Huang, Liu, Shen, He, Lin and Tao, arXiv 2201.11380).

Client k keeps a model w_k under masks m_k, whose layers keep c_l weights from the
sparsity S by ERK. In round t, with neighbours N_k drawn anew, and k itself among them:

    average  w_k <- m_k * sum_{j in N_k} m_j w_j / sum_{j in N_k} m_j
    tune     w_k <- E local epochs from w_k, projected by m_k
    drop     the ceil(alpha_t c_l) smallest |w_k| of every layer, alpha_t  =
             alpha/2 (1 + cos(pi (t - 1) / T))
    grow     as many largest |g| among those then pruned, at weight zero, with g the
             dense gradient of a batch

There is no server. Here neighbours' models are read from what the simulation keeps of
all clients, ``[N, ...]``, so only clients of the round's cohort train, but any may be a
neighbour. `client_model` gives w_k. The model that `model` gives is the mean of the
cohort's, over those that keep a weight: for evaluation alone, nobody is sent it. Bytes
are those between clients: down, the models of the neighbours; up, the client's own, as
often as it has neighbours, which it is asked for on average.

Deviations: all clients start with the same masks, the largest |w_0| of every layer.
The neighbours of round 1, when all models are the same, do not depend on the key. The
authors clip gradients at 10 and decay weights (5e-4) and the learning rate (0.998^t).

Checked against: rong-dai/DisPFL by the notes of this project; rounds against NumPy in
tests/algorithms/test_dispfl.py.
"""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.aggregation import means
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.adjustment import Signal, dense_gradient
from fedsparsify_jax.engine import EngineOptions, engine, resolve
from fedsparsify_jax.engine.records import without_residual
from fedsparsify_jax.method import (
    Client,
    Context,
    Local,
    Method,
    PruneFn,
    ServerTransform,
    Upload,
    Uploader,
    Uploads,
)
from fedsparsify_jax.metrics.communication import kept_bytes
from fedsparsify_jax.pruning.regrowth import drop_and_grow, replaced_share
from fedsparsify_jax.pruning.selection import keep_counts, leaf_counts, magnitude
from fedsparsify_jax.training.local import batch_loss
from fedsparsify_jax.types import (
    Allocation,
    ApplyFn,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    Schedule,
    State,
    Variables,
)


class Personal(NamedTuple):
    """The state of a client."""

    variables: Variables
    masks: Masks


def neighbours_of(
    seed: jax.Array, t: jax.Array, client: jax.Array, total: int, number: int
) -> jax.Array:
    """Draws other clients, distinct ones: int32 ``[min(number, total - 1)]``.

    Args:
      seed: uint32, of the round.
      t: the round.
      client: id of the one whose neighbours they are.
      total: N.
      number: of neighbours.

    Example:
      >>> sorted(neighbours_of(jnp.uint32(0), 1, 2, 4, 9).tolist())
      [0, 1, 3]
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), t), client)
    size = min(number, total - 1)
    drawn = jax.random.choice(key, total - 1, (size,), replace=False)
    return (drawn + (drawn >= client)).astype(jnp.int32)


class Circle(NamedTuple):
    """The rule by which clients have neighbours."""

    neighbours: int

    def ids(self, context: Context, client: Client) -> jax.Array:
        """Returns the neighbours of one client in this round."""
        total = trees.leading_size(context.clients)
        return neighbours_of(
            context.server, context.round, client.id, total, self.neighbours
        )

    def receive(self, context: Context, client: Client) -> tuple[Variables, Masks]:
        """Returns the mean of a client's model and its neighbours', under its masks."""

        def add(sums: means.Sums, kept: Personal) -> means.Sums:
            new = mask_algebra.apply(kept.masks, kept.variables)
            return means.Sums(
                jax.tree.map(lambda a, w: a + w.astype(a.dtype), sums.total, new),
                jax.tree.map(lambda a, m: a + m, sums.weight, kept.masks),
            )

        def visit(sums: means.Sums, number: jax.Array) -> tuple[means.Sums, None]:
            return add(sums, trees.take(context.clients, number)), None

        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, jnp.float32), client.state.variables
        )
        # One neighbour after another, so that two models are held, not all of them.
        own = add(means.Sums(zeros, zeros), client.state)
        sums, _ = jax.lax.scan(visit, own, self.ids(context, client))
        mean = means.mean(sums, like=client.state.variables)
        masks = client.state.masks
        return mask_algebra.apply(masks, mean), masks

    def received_bytes(self, context: Context, client: Client) -> jax.Array:
        """Counts the bytes of the neighbours' models."""
        sizes = jax.lax.map(
            lambda number: kept_bytes(trees.take(context.clients, number).masks),
            self.ids(context, client),
        )
        return jnp.sum(sizes, dtype=jnp.uint32)

    def send(
        self, key: Key, local: Local, context: Context, client: Client
    ) -> tuple[Upload, PyTree]:
        """Sends the model as often as there are neighbours, and keeps it."""
        del key
        again = max(0, len(self.ids(context, client)) - 1)
        upload = Upload(
            local.variables,
            local.masks,
            extra_bytes=kept_bytes(local.masks) * jnp.uint32(again),
        )
        return upload, Personal(local.variables, local.masks)


def _adjustment(signal: Signal, share: Schedule, prunable: Prunable | None) -> PruneFn:
    """Builds a client's drop by magnitude and growth by gradient, in every round."""

    def adjust(key: Key, local: Local, context: Context, client: Client) -> Masks:
        grow = magnitude(signal(key, local, client))
        alpha = share(context.round)
        counts = jax.tree.map(
            lambda m: jnp.ceil(alpha * jnp.sum(m, dtype=jnp.float32)).astype(jnp.int32),
            local.masks,
        )
        drop = magnitude(local.variables)
        return drop_and_grow(local.masks, drop, grow, counts, prunable=prunable)

    return adjust


def _next_seed(
    key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
) -> tuple[Variables, Masks, PyTree]:
    del uploads, context
    return variables, masks, jax.random.bits(key, dtype=jnp.uint32)


def dispfl(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.5,
    rounds: ArrayLike = 500,
    neighbours: int = 10,
    alpha: ArrayLike = 0.5,
    allocation: Allocation = "erk",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds DisPFL, which needs ``num_clients`` and keeps a model for each of them.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S in [0, 1), of every client's model from the start.
      rounds: T.
      neighbours: other clients that a client averages with in a round; all of them if
        there are fewer.
      alpha: share of the weights that the first round replaces.
      allocation: how layers share the sparsity, see `pruning.leaf_counts`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for fewer than one neighbour.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = dispfl(model.apply, neighbours=3, num_clients=10)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> bool((info.bytes_down == 3 * info.bytes_down[0] // 3).all())
      True
    """
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}: it must be at least 1")
    resolved, circle = resolve(options), Circle(neighbours)
    share = replaced_share(alpha, interval=1, first=1, until=rounds, decay="cosine")

    loss = batch_loss(apply_fn, resolved.loss_fn)

    def first(variables: Variables, masks: Masks) -> PyTree:
        counts = leaf_counts(
            variables, final_sparsity, scope=allocation, prunable=prunable
        )
        masks = keep_counts(magnitude(variables), counts, prunable=prunable)
        return Personal(mask_algebra.apply(masks, variables), masks)

    method = Method(
        aggregate=aggregate("nonzero", "none"),
        receive=circle.receive,
        received_bytes=circle.received_bytes,
        client_prune=_adjustment(
            dense_gradient(loss, resolved.batch_size), share, prunable
        ),
        upload=Uploader(first, circle.send),
        server=ServerTransform(lambda variables, masks: jnp.uint32(0), _next_seed),
        masks_travel=True,
        grows=True,
        prunable=prunable,
    )
    algorithm = engine(apply_fn, method, **options)

    def client_model(state: State, client: jax.Array) -> Variables:
        kept: Personal = without_residual(state.clients.extra)
        return trees.take(kept.variables, client)

    return algorithm._replace(client_model=client_model)

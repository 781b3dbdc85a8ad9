"""RigL, SET and SNFS: the weakest weights make room for new ones.

Evci, Gale, Menick, Castro and Elsen, *Rigging the Lottery: Making All Tickets Winners*,
ICML 2020, arXiv 1911.11134 (RigL); Mocanu, Mocanu, Stone, Nguyen, Gibescu and Liotta,
*Scalable training of artificial neural networks with adaptive sparse connectivity
inspired by network science*, arXiv 1707.04780 (SET); Dettmers and Zettlemoyer, *Sparse
Networks from Scratch: Faster Training without Losing Performance*, arXiv 1907.04840
(SNFS); in a federation as follows.

Layer l keeps c_l weights, from the sparsity S by ERK, random ones at first. In round t
clients train under m and the server averages, as in FedAvg. In every A-th round before
H it then adjusts the masks, layer by layer, with k = floor(f(t) c_l):

    f(t)  =  alpha/2 (1 + cos(pi t / H))
    drop     the k smallest |w| of the kept
    grow     the k largest |g| of those then pruned, at weight zero

    gradient  (RigL)  g = sum_k p_k g_k, and client k's g_k is the gradient of a batch
                      at its trained model, of all positions; sent in rounds that adjust
    random    (SET)   g uniform, drawn by the server; nothing more is sent
    momentum  (SNFS)  g <- beta g + (1 - beta) sum_k p_k g_k in every round before H, in
                      all of which clients send g_k

What is dropped may be grown at once, and keeps its weight then, as in RigL's code.

``adjusted_by="client"`` moves the adjustment to the clients, after E_1 of their E
epochs, by their |w_k| and g_k; the momentum is that of client k's steps in the round.
The server merges as FedDST does: position by position over the holders, the union
pruned back to c_l. Nothing but models and masks is sent.

Deviations: the papers train on one machine, and A and H are steps there. SNFS moves
weights between layers too; RigL's authors do not, when they compare, and neither does
this. SET's first masks are random as well, but by its own rule (``allocation="er"``).
Clients' momenta of grown weights are not reset; they start anew in every round unless
they are kept. Vectors (biases, norm parameters) stay dense and count against the
budget. The default A and H = 3R/4 are this library's, alpha = 0.3 and beta = 0.9 those
of RigL's code.

Checked against: google-research/rigl d39fc7d, read; adjustments of every kind and whole
rounds against NumPy in tests/algorithms/test_rigl.py.
"""

from typing import Any, Unpack, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import schedules, trees
from fedsparsify_jax.aggregation import means
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared import adjustment
from fedsparsify_jax.engine import EngineOptions, engine, resolve
from fedsparsify_jax.method import (
    Aggregate,
    Client,
    Context,
    GradFn,
    GradientTransform,
    Local,
    Method,
    ServerTransform,
    Upload,
    Uploader,
    Uploads,
    no_state,
)
from fedsparsify_jax.metrics.communication import BYTES_PER_NUMBER
from fedsparsify_jax.pruning import saliency
from fedsparsify_jax.pruning.regrowth import drop_and_grow, replaced_share
from fedsparsify_jax.pruning.selection import magnitude, share_counts
from fedsparsify_jax.training.local import batch_loss
from fedsparsify_jax.types import (
    AdjustedBy,
    Allocation,
    ApplyFn,
    Decay,
    FederatedAlgorithm,
    FirstMasks,
    Growth,
    Key,
    Masks,
    Prunable,
    PyTree,
    Schedule,
    Variables,
)

SENT = "gradients"
"""The collection in which the merged gradients go from the merge to the adjustment."""


def rigl(
    apply_fn: ApplyFn,
    *,
    growth: Growth = "gradient",
    adjusted_by: AdjustedBy = "server",
    final_sparsity: ArrayLike = 0.9,
    rounds: ArrayLike = 200,
    interval: int = 10,
    alpha: ArrayLike = 0.3,
    decay: Decay = "cosine",
    adjust_until: ArrayLike | None = None,
    adjust_after: int | None = None,
    growth_momentum: ArrayLike = 0.9,
    first_masks: FirstMasks = "random",
    allocation: Allocation = "erk",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds RigL, SET or SNFS.

    Args:
      apply_fn: the model's forward pass.
      growth: what weights grow by: ``"gradient"`` (RigL), ``"random"`` (SET) or
        ``"momentum"`` (SNFS).
      adjusted_by: ``"server"``, or ``"client"``.
      final_sparsity: S in [0, 1), from the first round on.
      rounds: R.
      interval: A, rounds between adjustments.
      alpha: share of the weights that is replaced at first; 0 is `static`.
      decay: ``"cosine"`` or ``"constant"``, the course of that share.
      adjust_until: H, where adjustments end; 3R/4 by default.
      adjust_after: E_1, epochs of a client before it adjusts its masks, from 0 to E;
        E // 2 by default. For ``adjusted_by="client"`` alone.
      growth_momentum: beta in [0, 1); may be traced.
      first_masks: ``"random"``, or ``"magnitude"``.
      allocation: ``"erk"``, ``"er"``, ``"erk_feddst"`` or ``"layer"``, see
        `pruning.leaf_counts`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for numbers out of range, epochs before an adjustment that no client
        makes, or a name that is none of those above.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = rigl(model.apply, final_sparsity=0.5, interval=1, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    resolved = resolve(options)
    epochs = adjustment.whole_epochs(resolved.local_epochs)
    on_server = adjusted_by == "server"
    _check(growth, adjusted_by, first_masks, growth_momentum, adjust_after)
    if adjust_after is None:
        adjust_after = epochs if on_server else epochs // 2
    adjustment.check_timing(interval, adjust_after, epochs)
    if growth == "momentum" and adjust_after == 0:
        raise ValueError(
            "adjust_after is 0: growth by momentum needs an epoch before it"
        )

    def share(every: int) -> Schedule:
        until = 0.75 * rounds if adjust_until is None else adjust_until
        return replaced_share(
            alpha, interval=every, first=every, until=until, decay=decay, start=0
        )

    counts = adjustment.budgets(allocation, prunable)
    loss = batch_loss(apply_fn, resolved.loss_fn)
    gradient = adjustment.dense_gradient(loss, resolved.batch_size)
    method = Method(
        schedule=schedules.constant(final_sparsity),
        setup=adjustment.first_masks(first_masks, counts, prunable),
        aggregate=(
            aggregate("mean")
            if on_server
            else adjustment.union_of_clients(counts, prunable)
        ),
        fine_tune_epochs=epochs - adjust_after,
        masks_travel=True,
        grows=True,
        prunable=prunable,
    )
    if on_server:
        sends = share(1 if growth == "momentum" else interval)
        method = _sending_gradients(method, growth, gradient, sends)
        adjusts = _adjusting(growth, share(interval), growth_momentum, prunable)
        method = method._replace(server=adjusts)
    else:
        method = _growing(method, growth, gradient, share(interval), growth_momentum)
    options["local_epochs"] = adjust_after
    return engine(apply_fn, method, **options)


def _check(
    growth: str,
    adjusted_by: str,
    first_masks: str,
    growth_momentum: ArrayLike,
    adjust_after: int | None,
) -> None:
    adjustment.check_name("growth", growth, get_args(Growth))
    adjustment.check_name("adjusted_by", adjusted_by, get_args(AdjustedBy))
    adjustment.check_name("first_masks", first_masks, get_args(FirstMasks))
    if isinstance(growth_momentum, int | float) and not 0 <= growth_momentum < 1:
        raise ValueError(
            f"growth_momentum is {growth_momentum}: it must be at least 0 and below 1"
        )
    if adjusted_by == "server" and adjust_after is not None:
        raise ValueError('adjust_after goes with adjusted_by="client" only')


def _growing(
    method: Method,
    growth: Growth,
    gradient: adjustment.Signal,
    share: Schedule,
    beta: ArrayLike,
) -> Method:
    """Returns the method whose clients adjust their masks."""
    if growth == "momentum":
        method = method._replace(gradient=_averaging(beta))
    signal = {"gradient": gradient, "random": _draw, "momentum": _average}[growth]
    adjusts = adjustment.adjusted_by_clients(signal, share, method.prunable)
    return method._replace(client_prune=adjusts)


def _sending_gradients(
    method: Method, growth: Growth, gradient: adjustment.Signal, share: Schedule
) -> Method:
    """Returns the method whose clients send what the server grows by, if anything."""
    if growth == "random":
        return method
    upload = _sending(gradient, share)
    return method._replace(upload=upload, aggregate=_with_gradients())


def _sending(gradient: adjustment.Signal, share: Schedule) -> Uploader:
    """Sends gradients beside the model in the rounds of a share above zero."""

    def send(
        key: Key, local: Local, context: Context, client: Client
    ) -> tuple[Upload, PyTree]:
        numbers, with_keys = trees.hide_keys(key)
        params = local.variables["params"]
        sends = jnp.asarray(share(context.round)) > 0
        gradients = jax.lax.cond(
            sends,
            lambda: gradient(with_keys(numbers), local, client)["params"],
            lambda: jax.tree.map(jnp.zeros_like, params),
        )
        dense = jnp.uint32(BYTES_PER_NUMBER * trees.size(params))
        upload = Upload(
            variables=local.variables,
            masks=local.masks,
            extra=gradients,
            extra_bytes=jnp.where(sends, dense, jnp.uint32(0)),
        )
        return upload, client.state

    return Uploader(no_state, send)


def _with_gradients() -> Aggregate:
    """Builds FedAvg's mean, with that of the gradients for the adjustment after it."""
    models = aggregate("mean")

    def sums(uploads: Uploads, context: Context) -> tuple[PyTree, means.Sums]:
        gradients = means.sums(uploads.extra, uploads.shares)
        return models.sums(uploads, context), gradients

    def merge(
        sums: tuple[PyTree, means.Sums], uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks]:
        variables, masks = models.merge(sums[0], uploads, context)
        mean = means.mean(sums[1], like=context.variables["params"])
        return variables | {SENT: mean}, masks

    return Aggregate(sums=sums, merge=merge)


def _adjusting(
    growth: Growth, share: Schedule, beta: ArrayLike, prunable: Prunable | None
) -> ServerTransform:
    """Builds the server's adjustment; its state is SNFS's momentum."""

    def init(variables: Variables, masks: Masks) -> PyTree:
        if growth != "momentum":
            return ()
        return jax.tree.map(jnp.zeros_like, variables["params"])

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        numbers, with_keys = trees.hide_keys(key)
        variables = dict(variables)
        g, state = variables.pop(SENT, None), context.server
        if growth == "momentum":
            g = state = _followed(beta, state, g)
        alpha = jnp.asarray(share(context.round))

        def adjusted() -> Masks:
            if growth == "random":
                grow = saliency.random(with_keys(numbers), variables)
            else:
                grow = jax.tree.map(jnp.zeros_like, variables) | {"params": g}
            counts = share_counts(masks, alpha)
            drop, grow = magnitude(variables), magnitude(grow)
            return drop_and_grow(masks, drop, grow, counts, prunable=prunable)

        masks = jax.lax.cond(alpha > 0, adjusted, lambda: masks)
        return mask_algebra.apply(masks, variables), masks, state

    return ServerTransform(init, update)


def _followed(beta: ArrayLike, average: PyTree, new: PyTree) -> PyTree:
    """Returns the next moving average, in the dtypes of the one before."""
    moved = jax.tree.map(lambda a, b: beta * a + (1 - beta) * b, average, new)
    return trees.cast_like(moved, average)


def _averaging(beta: ArrayLike) -> GradientTransform:
    """Keeps the moving average of a client's gradients in its memory."""

    def init(variables: Variables) -> PyTree:
        return {"params": jax.tree.map(jnp.zeros_like, variables["params"])}

    def update(
        grad_fn: GradFn, variables: Variables, memory: PyTree, context: Context
    ) -> tuple[Any, Variables, PyTree]:
        value, gradients = grad_fn(variables)
        return value, gradients, _followed(beta, memory, gradients)

    return GradientTransform(init, update)


def _average(key: Key, local: Local, client: Client) -> PyTree:
    """Returns what `_averaging` has kept: a `Signal`."""
    average: PyTree = jax.tree.map(jnp.zeros_like, local.variables) | local.memory
    return average


def _draw(key: Key, local: Local, client: Client) -> PyTree:
    """Returns a random order: a `Signal`."""
    return saliency.random(key, local.variables)

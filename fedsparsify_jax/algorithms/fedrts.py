"""FedRTS: masks drawn from what rounds so far say of every weight.

Huang, Yang, Chen, Ye and Wu, *FedRTS: Federated Robust Pruning via Combinatorial
Thompson Sampling*, NeurIPS 2025, arXiv 2501.19122.

Layer l keeps K weights, by ERK the largest ones at first. Of every weight the server
believes that its worth is Beta(a, b), from a = b = 1. In round t up to H, with the
shares p_i = n_i / sum_j n_j and layer by layer,

    k     =  floor(alpha/2 (1 + cos(pi t / H)) K)

    tune    w_i <- E local epochs from w under m
    merge   w   <- sum_i p_i w_i
    learn   of the weights of m, with [.] the K - k largest |.| among them,
            o = gamma sum_i p_i [w_i] + (1 - gamma) [w]
            a <- a + lambda o;  b <- b + lambda (1 - o)

In rounds A, 2A, ... clients also send which k of the pruned positions, or all if there
are fewer, have the largest gradients of a batch where their training ended, g_i; then

    learn   of the pruned weights, with [g_i] these k,
            o = gamma sum_i p_i [g_i] + (1 - gamma) / 2, and a and b as above
    adjust  m <- the K largest of one draw from Beta(a, b), grown ones at weight zero

A position that is sent is one number; the weights themselves say the other outcomes.
After round H nothing is learnt or adjusted any more.

Deviations: draws are compared by their log odds, in which float32 tells values near 1
apart. Vectors (biases, norm parameters) stay dense and count against the budget. H is
0.6 of the rounds, as 300 of 500 in the authors' code.

Checked against: FedPruning/FedPruning 7069881 (the authors' library, "fedrts"), read;
it has no licence, and nothing is taken from it. The paper's text was not at hand.
Rounds against NumPy in tests/algorithms/test_fedrts.py.
"""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import schedules, trees
from fedsparsify_jax.aggregation import means
from fedsparsify_jax.algorithms._shared import growth
from fedsparsify_jax.algorithms._shared.adjustment import (
    budgets,
    dense_gradient,
    first_masks,
)
from fedsparsify_jax.engine import EngineOptions, engine, resolve
from fedsparsify_jax.method import (
    Aggregate,
    Client,
    Context,
    Local,
    Method,
    ServerTransform,
    Upload,
    Uploader,
    Uploads,
    no_state,
)
from fedsparsify_jax.metrics.communication import BYTES_PER_INDEX
from fedsparsify_jax.pruning.regrowth import replaced_share
from fedsparsify_jax.pruning.selection import keep_counts, magnitude, share_counts
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
    Variables,
)


class Beliefs(NamedTuple):
    """The beliefs of the server on every weight: Beta(a, b), float32 trees."""

    a: PyTree
    b: PyTree


class _Sums(NamedTuple):
    models: means.Sums
    kept: PyTree  # sum_i p_i [w_i]
    grown: PyTree  # sum_i p_i [g_i]
    shares: jax.Array  # sum_i p_i; below 1 if uploads were left out


class _Timing(NamedTuple):
    share: Schedule  # alpha/2 (1 + cos(pi t / H))
    interval: int
    until: ArrayLike

    def learns(self, t: jax.Array) -> jax.Array:
        return jnp.asarray(t <= self.until)

    def adjusts(self, t: jax.Array) -> jax.Array:
        return self.learns(t) & (t % self.interval == 0)


# The outcomes o leave the merge for the server's step as a collection of the model,
# which is gone before anything else sees it.
_OUTCOMES = "outcomes"


def _counts(masks: Masks) -> PyTree:
    return jax.tree.map(lambda mask: jnp.sum(mask, dtype=jnp.int32), masks)


def _sending(choose: growth.ChooseFn) -> Uploader:
    """Sends the positions of the largest gradients where weights are pruned."""

    def send(
        key: Key, local: Local, context: Context, client: Client
    ) -> tuple[Upload, PyTree]:
        _, chosen = choose(key, local, context, client)
        upload = Upload(
            variables=local.variables,
            masks=local.masks,
            extra=chosen,
            extra_bytes=growth.count_bytes(chosen, BYTES_PER_INDEX),
        )
        return upload, client.state

    return Uploader(no_state, send)


def _merging(
    timing: _Timing, individual_share: ArrayLike, prunable: Prunable | None
) -> Aggregate:
    """Builds the mean, with the outcomes of the round beside it."""

    def core(variables: Variables, context: Context) -> Masks:
        masks = context.masks
        dropped = share_counts(masks, timing.share(context.round))
        left = jax.tree.map(jnp.subtract, _counts(masks), dropped)
        return keep_counts(magnitude(variables), left, within=masks, prunable=prunable)

    def sums(uploads: Uploads, context: Context) -> _Sums:
        def votes() -> PyTree:
            each = jax.vmap(core, in_axes=(0, None))(uploads.variables, context)
            return trees.weighted_sum(each, uploads.shares)

        def nothing() -> PyTree:
            return jax.tree.map(
                lambda m: jnp.zeros(m.shape, jnp.float32), context.masks
            )

        return _Sums(
            models=means.sums(uploads.variables, uploads.shares),
            kept=jax.lax.cond(timing.learns(context.round), votes, nothing),
            grown=trees.weighted_sum(uploads.extra, uploads.shares),
            shares=jnp.sum(uploads.shares),
        )

    def merge(
        sums: _Sums, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks]:
        mean = means.mean(sums.models, like=context.variables)
        total = jnp.where(sums.shares > 0, sums.shares, 1.0)
        gamma = individual_share

        def outcome(
            mask: jax.Array, kept: jax.Array, grown: jax.Array, joint: jax.Array
        ) -> jax.Array:
            active = gamma * kept / total + (1 - gamma) * joint
            inactive = gamma * grown / total + (1 - gamma) / 2
            return jnp.where(mask, active, inactive).astype(jnp.float32)

        joint = jax.lax.cond(
            timing.learns(context.round),
            lambda: core(mean, context),
            lambda: context.masks,
        )
        outcomes = jax.tree.map(outcome, context.masks, sums.kept, sums.grown, joint)
        return mean | {_OUTCOMES: outcomes}, context.masks

    return Aggregate(sums=sums, merge=merge)


def draw(key: Key, beliefs: Beliefs) -> PyTree:
    """Draws log odds of Beta(a, b) for every weight: float32 trees.

    Their order is that of draws from Beta(a, b), of which a gamma draw each for a and
    for b are the parts.

    Example:
      >>> one, many = {"w": jnp.ones(1)}, {"w": jnp.full(1, 1e6)}
      >>> odds = draw(jax.random.key(0), Beliefs(many, one))["w"]
      >>> bool(odds[0] > 10)
      True
    """
    # All at once: a gamma draw takes long to compile, and took it leaf by leaf.
    a, as_tree = ravel_pytree(beliefs.a)
    b, _ = ravel_pytree(beliefs.b)
    for_a, for_b = jax.random.split(key)
    positive = jax.random.loggamma(for_a, a, dtype=jnp.float32)
    return as_tree(positive - jax.random.loggamma(for_b, b, dtype=jnp.float32))


def _sampling(
    timing: _Timing, evidence: ArrayLike, prunable: Prunable | None
) -> ServerTransform:
    """Builds the server's learning, and its draw of masks."""

    def init(variables: Variables, masks: Masks) -> PyTree:
        def ones() -> PyTree:  # a state that is donated has no array twice
            return jax.tree.map(lambda mask: jnp.ones(mask.shape, jnp.float32), masks)

        return Beliefs(ones(), ones())

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        variables = dict(variables)
        outcomes = variables.pop(_OUTCOMES)
        learns, adjusts = timing.learns(context.round), timing.adjusts(context.round)
        weights = jax.tree.map(
            lambda mask: evidence * jnp.where(mask, learns, adjusts), masks
        )
        learnt = Beliefs(
            a=jax.tree.map(
                lambda a, o, n: (a + n * o).astype(a.dtype),
                context.server.a,
                outcomes,
                weights,
            ),
            b=jax.tree.map(
                lambda b, o, n: (b + n * (1 - o)).astype(b.dtype),
                context.server.b,
                outcomes,
                weights,
            ),
        )
        numbers, with_keys = trees.hide_keys(key)

        def drawn() -> Masks:
            odds = draw(with_keys(numbers), learnt)
            return keep_counts(odds, _counts(masks), prunable=prunable)

        masks = jax.lax.cond(adjusts, drawn, lambda: masks)
        return mask_algebra.apply(masks, variables), masks, learnt

    return ServerTransform(init, update)


def fedrts(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.9,
    rounds: ArrayLike = 200,
    interval: int = 10,
    alpha: ArrayLike = 0.2,
    individual_share: ArrayLike = 0.5,
    evidence: ArrayLike = 10.0,
    adjust_until: ArrayLike | None = None,
    allocation: Allocation = "erk",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedRTS.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: in [0, 1), from the first round on.
      rounds: of the federation.
      interval: A, rounds between adjustments.
      alpha: share of a layer's weights that round 0 would doubt.
      individual_share: gamma in [0, 1], of the clients' own choices in an outcome.
      evidence: lambda, what the outcome of a round adds to a and b.
      adjust_until: H, the last round that may adjust; 0.6 of the rounds by default.
      allocation: ``"erk"``, ``"er"``, ``"erk_feddst"`` or ``"layer"``, see
        `pruning.leaf_counts`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for an interval below 1, a share outside [0, 1], or evidence below 0.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = fedrts(model.apply, final_sparsity=0.5, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    growth.check_interval(interval)
    if isinstance(individual_share, int | float) and not 0 <= individual_share <= 1:
        raise ValueError(
            f"individual_share is {individual_share}: it must be from 0 to 1"
        )
    if isinstance(evidence, int | float) and not 0 <= evidence < float("inf"):
        raise ValueError(f"evidence is {evidence}: it must be at least 0 and finite")
    resolved = resolve(options)
    until = 0.6 * rounds if adjust_until is None else adjust_until
    share = replaced_share(
        alpha, interval=1, first=1, until=until, decay="cosine", start=0
    )
    timing = _Timing(share=share, interval=interval, until=until)

    def quota(context: Context, client: Client) -> PyTree:
        return share_counts(context.masks, timing.share(context.round))

    choose = growth.largest_in_adjustments(
        timing.adjusts,
        dense_gradient(batch_loss(apply_fn, resolved.loss_fn), resolved.batch_size),
        quota,
        prunable,
    )
    method = Method(
        schedule=schedules.constant(final_sparsity),
        setup=first_masks("magnitude", budgets(allocation, prunable), prunable),
        upload=_sending(choose),
        aggregate=_merging(timing, individual_share, prunable),
        server=_sampling(timing, evidence, prunable),
        masks_travel=True,
        grows=True,
        prunable=prunable,
    )
    return engine(apply_fn, method, **options)

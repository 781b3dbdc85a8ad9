"""FedDST: clients drop and regrow weights, the server prunes the union back.

Bibikar, Vikalo, Wang and Chen, *Federated Dynamic Sparse Training: Computing Less,
Communicating Less, Yet Learning Better*, AAAI 2022, arXiv 2112.09824, algorithm 1.

Layer l keeps c_l weights, from the sparsity S by ERK; the first masks keep the largest
|w_0| of every layer. In round t, client k trains E_1 epochs from (w, m). In every A-th
round up to H = R/2, layer by layer, with g the dense gradient of a batch,

    drop   the floor(alpha_t c_l) smallest |w_k| of m_k
    grow   as many largest |g| among the positions then pruned, at weight zero

and it trains E - E_1 epochs more under its masks. It uploads w_k and m_k; the server
merges, position by position (0 where no client keeps one), and prunes the union back:

    v  <-  sum_k n_k m_k                    the votes
    w  <-  sum_k n_k m_k w_k / v
    m  <-  the c_l largest |w| of every layer with v > 0; of equal |w| those with the
           most votes, then those of the lowest index

    alpha_t  =  alpha/2 (1 + cos(pi (t - 1) / H)), or alpha throughout

``variant="authors"`` is the timing of the published code: rounds 2, A + 2, ..., no
training after growth (E_1 = E) and a constant alpha. Weights that were just grown are
then zero when the server prunes, and few of them survive.

Deviations: E_1 = E // 2 by default, as in the FedPruning port, for the published code
does not train what it grows; the text of algorithm 1 was not at hand. Kept counts are
exact. The gradient is that of a batch drawn for it, where the code takes the last one
again. A weight dropped and grown in the same step keeps its value, as in RigL; the
code ranks gradients over all positions, which resets strong weights and loses others.
The first adjustment is in round 1. Their "erk" is ``allocation="erk_feddst"``. Vectors
(biases, norm parameters) stay dense and count against the budget.

Checked against: bibikar/feddst 25d6184 and FedPruning/FedPruning 7069881, read; the
drop, growth, merge and whole rounds against NumPy in tests/algorithms/test_feddst.py.
"""

from collections.abc import Callable
from typing import Unpack, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import schedules, trees
from fedsparsify_jax.aggregation import means
from fedsparsify_jax.algorithms._shared.client_scores import first_batch
from fedsparsify_jax.algorithms._shared.proximal import proximal
from fedsparsify_jax.engine import EngineOptions, engine, resolve
from fedsparsify_jax.method import (
    Aggregate,
    BatchLoss,
    Client,
    Context,
    Local,
    Method,
    PruneFn,
    Setup,
    Uploads,
    no_clients,
)
from fedsparsify_jax.pruning import saliency
from fedsparsify_jax.pruning.regrowth import drop_and_grow, replaced_share
from fedsparsify_jax.pruning.selection import (
    keep_counts,
    leaf_counts,
    magnitude,
    share_counts,
)
from fedsparsify_jax.training.local import batch_loss
from fedsparsify_jax.types import (
    Allocation,
    ApplyFn,
    Cohort,
    Decay,
    FederatedAlgorithm,
    FirstMasks,
    Key,
    Masks,
    Prunable,
    PyTree,
    Schedule,
    Scores,
    Variables,
    Variant,
)

CountsFn = Callable[[Variables, Context], PyTree]
"""A model and the context to the entries c_l that every leaf keeps."""


def readjust(
    variables: Variables,
    masks: Masks,
    gradients: PyTree,
    alpha: ArrayLike,
    *,
    prunable: Prunable | None = None,
) -> Masks:
    """Drops a share of every layer by magnitude and grows as much by gradient.

    Args:
      variables: trained variables.
      masks: theirs; the result keeps as many in every leaf.
      gradients: of all positions, pruned ones included; same structure.
      alpha: share of each layer's kept weights, in [0, 1]; may be traced.
      prunable: path of a leaf to whether it may be pruned.

    Example:
      >>> w, g = jnp.array([3.0, 1.0, 0.0, 0.0]), jnp.array([0.0, 0.1, 0.2, 0.3])
      >>> readjust({"w": w}, {"w": w > 0}, {"w": g}, 0.5)
      {'w': Array([ True, False, False,  True], dtype=bool)}
    """
    return drop_and_grow(
        masks,
        magnitude(variables),
        magnitude(gradients),
        share_counts(masks, alpha),
        prunable=prunable,
    )


def prune_union(
    variables: Variables,
    votes: Scores,
    counts: PyTree,
    *,
    prunable: Prunable | None = None,
) -> Masks:
    """Keeps the largest weights that have votes; equal ones by votes, then by index.

    Args:
      variables: the merged model.
      votes: the weights of the clients that keep each entry, added up.
      counts: entries to keep of every leaf, int32 scalars.
      prunable: path of a leaf to whether it may be pruned.

    Example:
      Two clients grew the last entry and one the last but two, all at weight zero:

      >>> w, votes = jnp.array([5.0, 4.0, 0, 0, 0, 0]), jnp.array([3, 3, 0, 1, 0, 2.0])
      >>> prune_union({"w": w}, {"w": votes}, {"w": 3})["w"].tolist()
      [True, True, False, False, False, True]
    """
    scores = magnitude(variables)
    union = jax.tree.map(lambda v: v > 0, votes)
    kept = keep_counts(scores, counts, within=union, prunable=prunable)
    last = jax.tree.map(lambda k, s: jnp.min(s, where=k, initial=jnp.inf), kept, scores)
    above = jax.tree.map(lambda k, s, least: k & (s > least), kept, scores, last)
    equal = jax.tree.map(lambda u, s, least: u & (s == least), union, scores, last)
    left = jax.tree.map(lambda c, a: c - jnp.sum(a, dtype=jnp.int32), counts, above)
    elected = keep_counts(votes, left, within=equal, prunable=prunable)
    return jax.tree.map(jnp.logical_or, above, elected)


def _drop_and_grow(
    loss: BatchLoss, batch_size: int, share: Schedule, prunable: Prunable | None
) -> PruneFn:
    """Builds a client's adjustment, in rounds whose share is above zero."""

    def gradients(key: Key, variables: Variables, client: Client) -> PyTree:
        batch_key, noise_key = jax.random.split(key)
        batch = first_batch(batch_key, client.data, batch_size)

        def value(params: PyTree) -> jax.Array:
            return loss(variables | {"params": params}, batch, noise_key)[0]

        zeros = jax.tree.map(jnp.zeros_like, variables)
        return zeros | {"params": jax.grad(value)(variables["params"])}

    def drop_and_grow(
        key: Key, local: Local, context: Context, client: Client
    ) -> Masks:
        numbers, with_keys = trees.hide_keys(key)
        alpha = jnp.asarray(share(context.round))

        def adjusted() -> Masks:
            g = gradients(with_keys(numbers), local.variables, client)
            return readjust(local.variables, local.masks, g, alpha, prunable=prunable)

        return jax.lax.cond(alpha > 0, adjusted, lambda: local.masks)

    return drop_and_grow


def _start(kind: FirstMasks, counts: CountsFn, prunable: Prunable | None) -> Setup:
    """Builds the first masks: the largest weights of every layer, or random ones."""

    def first_masks(
        key: Key, context: Context, clients: Cohort
    ) -> tuple[Variables, Masks]:
        variables = context.variables
        scores = magnitude(variables)
        if kind == "random":
            scores = saliency.random(key, variables)
        masks = keep_counts(scores, counts(variables, context), prunable=prunable)
        return mask_algebra.apply(masks, variables), masks

    return Setup(no_clients, first_masks)


def _merge(counts: CountsFn, prunable: Prunable | None) -> Aggregate:
    """Builds the mean over the holders of each entry, its union pruned back."""

    def sums(uploads: Uploads, context: Context) -> means.Sums:
        return means.nonzero_sums(uploads.variables, uploads.masks, uploads.shares)

    def merge(
        sums: means.Sums, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks]:
        mean = means.mean(sums, like=context.variables)
        kept = counts(mean, context)
        masks = prune_union(mean, sums.weight, kept, prunable=prunable)
        return mask_algebra.apply(masks, mean), masks

    return Aggregate(sums=sums, merge=merge)


def feddst(
    apply_fn: ApplyFn,
    *,
    final_sparsity: ArrayLike = 0.8,
    rounds: ArrayLike = 200,
    interval: int = 10,
    alpha: ArrayLike = 0.5,
    decay: Decay | None = None,
    adjust_until: ArrayLike | None = None,
    adjust_after: int | None = None,
    first_masks: FirstMasks = "magnitude",
    allocation: Allocation = "erk",
    variant: Variant = "published",
    mu: ArrayLike = 0.0,
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedDST.

    Args:
      apply_fn: the model's forward pass.
      final_sparsity: S in [0, 1), from the first round on.
      rounds: R.
      interval: A, rounds between adjustments.
      alpha: share of the weights that the first adjustment replaces.
      decay: ``"cosine"`` or ``"constant"``, the course of that share.
      adjust_until: H, where adjustments end; R/2 by default.
      adjust_after: E_1, epochs of a client before it adjusts its masks, from 0 to E;
        E // 2 by default.
      first_masks: ``"magnitude"``, or ``"random"``.
      allocation: ``"erk"``, ``"er"``, ``"erk_feddst"`` or ``"layer"``, see
        `pruning.leaf_counts`.
      variant: ``"authors"`` for the timing of the published code.
      mu: weight of a FedProx term; 0 for none.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for an interval below 1, more epochs than there are, or a name that is
        none of those above.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = feddst(model.apply, final_sparsity=0.5, local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    _check_name("variant", variant, get_args(Variant))
    _check_name("first_masks", first_masks, get_args(FirstMasks))
    resolved, as_authors = resolve(options), variant == "authors"
    epochs = resolved.local_epochs
    if adjust_after is None:
        adjust_after = epochs if as_authors else epochs // 2
    if interval < 1:
        raise ValueError(f"interval is {interval}: it must be at least 1 round")
    if not 0 <= adjust_after <= epochs:
        raise ValueError(
            f"adjust_after is {adjust_after}: it must be from 0 to local_epochs, "
            f"{epochs}"
        )
    share = replaced_share(
        alpha,
        interval=interval,
        first=2 if as_authors else 1,
        until=rounds / 2 if adjust_until is None else adjust_until,
        decay=decay or ("constant" if as_authors else "cosine"),
    )

    def counts(variables: Variables, context: Context) -> PyTree:
        return leaf_counts(
            variables, context.sparsity, scope=allocation, prunable=prunable
        )

    loss = batch_loss(apply_fn, resolved.loss_fn)
    method = Method(
        schedule=schedules.constant(final_sparsity),
        setup=_start(first_masks, counts, prunable),
        client_prune=_drop_and_grow(loss, resolved.batch_size, share, prunable),
        fine_tune_epochs=epochs - adjust_after,
        aggregate=_merge(counts, prunable),
        masks_travel=True,
        grows=True,
        prunable=prunable,
    )
    if not (isinstance(mu, int | float) and mu == 0):
        method = method._replace(objective=proximal(mu))
    options["local_epochs"] = adjust_after
    return engine(apply_fn, method, **options)


def _check_name(argument: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        quoted = " or ".join(map(repr, names))
        raise ValueError(f"unknown {argument} {name!r}: {quoted}")

"""FLASH: layers share the sparsity as the sparse training of a few clients does.

Babakniya, Kundu, Prakash, Niu and Avestimehr, *Revisiting Sparsity Hunting in Federated
Learning: Why Does Sparsity Consensus Matter?*, TMLR 2023, arXiv 2208.13092.

Before round 1 (stage 1), some clients train E_0 epochs from the first model, under one
random mask that keeps the same share of every layer. After epoch e < E_0 each moves its
mask, with c_l the weights that layer l keeps and r = p (1 - e / E_0):

    drop   the floor(r c_l) smallest |w| of every layer
    grow   as many in all, at random, at weight zero; layer l's part is in proportion to
           its mean |w| before the drop

The server takes nothing but the c_kl. It averages them and draws the first mask:

    c_l  <-  min(n_l, z sum_k n_k c_kl), with z such that sum_l c_l = n - floor(S n)
    m    <-  a random choice of c_l weights of every layer

In all rounds (stage 2) the server averages weights as in FedAvg, and

    spdst  m stays
    jmwst  clients move their masks in the same way after E_1 of their E epochs, with
           r = p (1 - E_1 / E), in round 1 and every A-th after it; the server averages
           weights, pruned ones as zeros, and the c_kl, scales these as before, and
           m  <-  the c_l largest |w| of every layer

Deviations: the authors' code takes ``min(1, z d_l)`` of densities d_l without dividing
what is cut off among the others, and so misses S; counts are exact here, and what does
not fit goes to the other layers. Clients count by examples, where the code has plain
means. It moves masks by epochs, and in the middle of an only epoch; here E_1 = E // 2,
which is 0 for one epoch. Its correction of growth that missed its number is not needed,
and that of early layers that are nearly dense is left out, as are its budgets of
unequal clients (hetero-FLASH). Stage 2 starts from the first model itself, where the
code draws another. Vectors (biases, norm parameters) stay dense and count against the
budget; the code prunes convolutions alone. Of learning rates that fall it knows none.

Checked against: SaraBabakN/flash_fl fb88313, read; moves, counts and rounds against
NumPy in tests/algorithms/test_flash.py.
"""

from typing import NamedTuple, Unpack, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import schedules, trees
from fedsparsify_jax.aggregation import means
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.adjustment import (
    check_name,
    check_timing,
    whole_epochs,
)
from fedsparsify_jax.engine import EngineOptions, engine, resolve
from fedsparsify_jax.engine.sampling import sample_cohort
from fedsparsify_jax.engine.tuning import optimizer_of
from fedsparsify_jax.method import (
    Aggregate,
    Client,
    Context,
    Local,
    Method,
    PruneFn,
    Setup,
    Uploads,
)
from fedsparsify_jax.metrics.communication import BYTES_PER_NUMBER, kept_bytes
from fedsparsify_jax.pruning import allocation, saliency
from fedsparsify_jax.pruning.regrowth import replaced_share
from fedsparsify_jax.pruning.selection import keep_counts, magnitude
from fedsparsify_jax.training.local import TrainFn, batch_loss, local_training
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    Cohort,
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    Schedule,
    StageTwo,
    Variables,
)


class Layers(NamedTuple):
    """The leaves that share the sparsity: those that may be pruned and are no vectors.

    Numbers of layers are vectors ``[L]``, in the order of the leaves; `tree` makes
    counts of all leaves of them.
    """

    prunable: Prunable | None

    def chosen(self, variables: Variables) -> list[bool]:
        """Returns which leaves they are."""
        may = jax.tree.leaves(mask_algebra.prunable_leaves(variables, self.prunable))
        ranks = [jnp.ndim(leaf) for leaf in jax.tree.leaves(variables)]
        return [use and rank >= 2 for use, rank in zip(may, ranks, strict=True)]

    def each(self, tree: PyTree, of: Variables) -> list[jax.Array]:
        """Returns the leaves of a tree that belong to them."""
        leaves = zip(jax.tree.leaves(tree), self.chosen(of), strict=True)
        return [leaf for leaf, use in leaves if use]

    def sizes(self, variables: Variables) -> jax.Array:
        """Returns n_l."""
        sizes = [leaf.size for leaf in self.each(variables, variables)]
        return jnp.array(sizes, jnp.int32)

    def kept(self, masks: Masks) -> jax.Array:
        """Returns c_l."""
        leaves = self.each(masks, masks)
        return jnp.stack([jnp.sum(mask, dtype=jnp.int32) for mask in leaves])

    def tree(self, numbers: jax.Array, variables: Variables) -> PyTree:
        """Returns counts of all leaves; those that are no layers keep everything."""
        leaves, structure = jax.tree.flatten(variables)
        rows = iter(numbers)
        counts = [
            next(rows) if use else jnp.int32(leaf.size)
            for leaf, use in zip(leaves, self.chosen(variables), strict=True)
        ]
        return jax.tree.unflatten(structure, counts)

    def budget(self, variables: Variables, sparsity: ArrayLike) -> jax.Array:
        """Returns how many weights all of them keep; vectors count as kept."""
        may = jax.tree.leaves(mask_algebra.prunable_leaves(variables, self.prunable))
        leaves = zip(jax.tree.leaves(variables), may, strict=True)
        total = sum(leaf.size for leaf, use in leaves if use)
        layers = sum(leaf.size for leaf in self.each(variables, variables))
        kept = allocation.kept_count(total, sparsity) - (total - layers)
        return jnp.clip(kept, 0, layers)


def moved(
    key: Key, variables: Variables, masks: Masks, rate: ArrayLike, layers: Layers
) -> Masks:
    """Drops a share of every layer, and grows as much where weights are large.

    Args:
      key: of the growth.
      variables: trained under the masks.
      masks: what is kept; the result keeps as many in all.
      rate: r in [0, 1]; may be traced.
      layers: those that move.

    Example:
      Both layers drop a weight, and the one with the larger weights grows two:

      >>> w = {"a": jnp.array([[4.0, 9, 0, 0]]), "b": jnp.array([[0.1, 0.2, 0, 0]])}
      >>> masks = jax.tree.map(lambda leaf: leaf != 0, w)
      >>> new = moved(jax.random.key(0), w, masks, 0.5, Layers(None))
      >>> int(new["a"].sum()), int(new["b"].sum())
      (3, 1)
    """
    kept, sizes = layers.kept(masks), layers.sizes(variables)
    dropped = jnp.floor(rate * kept.astype(jnp.float32)).astype(jnp.int32)
    scores = magnitude(variables)
    pairs = zip(layers.each(scores, masks), layers.each(masks, masks), strict=True)
    large = jnp.stack([jnp.sum(jnp.where(m, w, 0)) for w, m in pairs])
    strength = large.astype(jnp.float32) / jnp.maximum(kept, 1)
    left = kept - dropped
    grown = allocation.divided(
        jnp.sum(dropped, dtype=jnp.int32), strength, sizes - left
    )

    stay = keep_counts(
        scores, layers.tree(left, masks), within=masks, prunable=layers.prunable
    )
    free = jax.tree.map(jnp.logical_not, stay)
    new = keep_counts(
        saliency.random(key, variables),
        layers.tree(grown, masks),
        within=free,
        prunable=layers.prunable,
    )
    return jax.tree.map(jnp.logical_or, stay, new)


def _stage_one(
    train: TrainFn,
    optimizer: optax.GradientTransformation,
    rate: ArrayLike,
    epochs: int,
    share: float,
    layers: Layers,
) -> Setup:
    """Builds the first masks by the sparse training of some clients."""

    def clients(key: Key, sizes: jax.Array) -> jax.Array:
        key, _ = jax.random.split(key)
        total = sizes.shape[0]
        return sample_cohort(key, total, max(1, int(share * total + 1e-9)))

    def kept_by(
        key: Key, variables: Variables, masks: Masks, data: ClientData, context: Context
    ) -> jax.Array:
        """Returns c_kl of a client: int32 ``[L]``."""

        def epoch(
            carry: tuple[Variables, Masks, PyTree], number: jax.Array
        ) -> tuple[tuple[Variables, Masks, PyTree], None]:
            variables, masks, state = carry
            train_key, move_key = jax.random.split(jax.random.fold_in(key, number))
            done = train(train_key, variables, masks, state, data, context)
            r = rate * (1 - (number + 1) / epochs)
            masks = moved(move_key, done.variables, masks, r, layers)
            variables = mask_algebra.apply(masks, done.variables)
            return (variables, masks, done.optimizer), None

        # After the last epoch nothing would move: that epoch changes no count.
        start = variables, masks, optimizer.init(variables["params"])
        (_, masks, _), _ = jax.lax.scan(epoch, start, jnp.arange(epochs - 1))
        return layers.kept(masks)

    def first_masks(
        key: Key, context: Context, clients: Cohort
    ) -> tuple[Variables, Masks]:
        _, start_key, train_key, draw_key = jax.random.split(key, 4)
        w, ids, data = context.variables, clients.ids, clients.data
        assert ids is not None
        budget, sizes = layers.budget(w, context.sparsity), layers.sizes(w)

        def draw(key: Key, shares: jax.Array) -> Masks:
            counts = layers.tree(allocation.divided(budget, shares, sizes), w)
            scores = saliency.random(key, w)
            return keep_counts(scores, counts, prunable=layers.prunable)

        even = draw(start_key, sizes)
        numbers, with_keys = trees.hide_keys(train_key)

        def add(sums: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
            key = jax.random.fold_in(with_keys(numbers), ids[place])
            start = mask_algebra.apply(even, w)
            kept = kept_by(key, start, even, trees.take(data, place), context)
            return sums + data.sizes[place].astype(jnp.float32) * kept, None

        places = jnp.arange(data.sizes.shape[0])
        sums, _ = jax.lax.scan(add, jnp.zeros(sizes.shape, jnp.float32), places)
        masks = draw(draw_key, sums)
        return mask_algebra.apply(masks, w), masks

    def traffic(variables: Variables, masks: Masks) -> tuple[jax.Array, jax.Array]:
        numbers = BYTES_PER_NUMBER * len(layers.each(masks, masks))
        return jnp.uint32(numbers), kept_bytes(masks)

    return Setup(clients, first_masks, traffic)


def _moving(rate: Schedule, layers: Layers) -> PruneFn:
    """Builds a client's move in the rounds whose rate is above zero."""

    def move(key: Key, local: Local, context: Context, client: Client) -> Masks:
        numbers, with_keys = trees.hide_keys(key)
        r = jnp.asarray(rate(context.round))
        return jax.lax.cond(
            r > 0,
            lambda: moved(with_keys(numbers), local.variables, local.masks, r, layers),
            lambda: local.masks,
        )

    return move


def joint(layers: Layers) -> Aggregate:
    """Builds FedAvg's mean under the largest weights of the clients' mean counts."""

    def sums(uploads: Uploads, context: Context) -> tuple[means.Sums, jax.Array]:
        models = mask_algebra.apply(uploads.masks, uploads.variables)
        kept = jax.vmap(layers.kept)(uploads.masks).astype(jnp.float32)
        shares = uploads.shares
        return means.sums(models, shares), trees.weighted_sum(kept, shares)

    def merge(
        sums: tuple[means.Sums, jax.Array], uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks]:
        mean = means.mean(sums[0], like=context.variables)
        budget = layers.budget(mean, context.sparsity)
        counts = allocation.divided(budget, sums[1], layers.sizes(mean))
        counts = layers.tree(counts, mean)
        masks = keep_counts(magnitude(mean), counts, prunable=layers.prunable)
        return mask_algebra.apply(masks, mean), masks

    return Aggregate(sums=sums, merge=merge)


def flash(
    apply_fn: ApplyFn,
    *,
    stage_two: StageTwo = "spdst",
    final_sparsity: ArrayLike = 0.9,
    setup_share: float = 0.1,
    setup_epochs: int = 10,
    alpha: ArrayLike = 0.25,
    interval: int = 1,
    adjust_after: int | None = None,
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FLASH.

    Args:
      apply_fn: the model's forward pass.
      stage_two: ``"spdst"`` or ``"jmwst"``.
      final_sparsity: S in [0, 1), from the first round on.
      setup_share: share of the clients that train before round 1, at least one.
      setup_epochs: E_0, at least 2.
      alpha: p in [0, 1]; may be traced.
      interval: A, rounds between moves of jmwst.
      adjust_after: E_1, epochs of a client before it moves its mask, from 0 to E - 1;
        E // 2 by default. For jmwst alone.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for numbers out of range, or an unknown second stage.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = flash(model.apply, final_sparsity=0.5, setup_epochs=2)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> round(float(info.sparsity), 3)
      0.5
    """
    resolved, moves = resolve(options), stage_two == "jmwst"
    epochs = whole_epochs(resolved.local_epochs)
    _check(stage_two, setup_share, setup_epochs, adjust_after)
    if adjust_after is None:
        adjust_after = epochs // 2 if moves else epochs
    check_timing(interval, adjust_after, epochs)
    layers, optimizer = Layers(prunable), optimizer_of(resolved)
    method = Method(
        schedule=schedules.constant(final_sparsity),
        aggregate=aggregate("mean"),
        prunable=prunable,
    )
    train = local_training(
        batch_loss(apply_fn, resolved.loss_fn),
        optimizer,
        method,
        epochs=1,
        batch_size=resolved.batch_size,
    )
    stage_one = _stage_one(train, optimizer, alpha, setup_epochs, setup_share, layers)
    method = method._replace(setup=stage_one)
    if moves:
        rate = replaced_share(
            alpha * (1 - adjust_after / epochs),
            interval=interval,
            first=1,
            until=jnp.inf,
            decay="constant",
        )
        method = method._replace(
            client_prune=_moving(rate, layers),
            fine_tune_epochs=epochs - adjust_after,
            aggregate=joint(layers),
            masks_travel=True,
            grows=True,
        )
    options["local_epochs"] = adjust_after
    return engine(apply_fn, method, **options)


def _check(
    stage_two: str, setup_share: float, setup_epochs: int, adjust_after: int | None
) -> None:
    check_name("stage_two", stage_two, get_args(StageTwo))
    if not 0 < setup_share <= 1:
        raise ValueError(
            f"setup_share is {setup_share}: it must be above 0 and at most 1"
        )
    if setup_epochs < 2:
        raise ValueError(f"setup_epochs is {setup_epochs}: it must be at least 2")
    if stage_two == "spdst" and adjust_after is not None:
        raise ValueError('adjust_after goes with stage_two="jmwst" only')

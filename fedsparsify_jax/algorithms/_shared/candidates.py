"""A pool of masks of which clients choose by their losses: FedTiny's selection.

All C candidates keep as many weights, but divide them otherwise among the layers. Of
candidate c, with client k's examples n_k,

    s_kc  <- statistics of the batches of client k, forward passes in training mode
    s_c   <- sum_k n_k s_kc / sum_k n_k
    L_kc  <- mean loss of client k's examples, evaluated with s_c
    c*    <- the least mean of L_kc over the clients

A client's s_kc are its running statistics without what is left in them of their start,
as Adam corrects its moments: with a momentum of 0.99 a few batches would hardly move
them. A model without such statistics chooses by the losses alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.aggregation.means import weighted_mean
from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.engine.sampling import client_keys
from fedsparsify_jax.metrics.communication import BYTES_PER_NUMBER, kept_bytes
from fedsparsify_jax.pruning.allocation import varied_counts
from fedsparsify_jax.pruning.selection import keep_counts, leaf_counts, magnitude
from fedsparsify_jax.training.forward import training_pass
from fedsparsify_jax.training.local import epoch_order
from fedsparsify_jax.training.losses import example_losses
from fedsparsify_jax.types import (
    Allocation,
    ApplyFn,
    ClientData,
    Cohort,
    Key,
    LossFn,
    Masks,
    Prunable,
    PyTree,
    Variables,
)

SPREAD = 2.0
"""Factors of layers' densities are drawn from 1 / `SPREAD` to `SPREAD`."""
_STARTED = 1e-6  # the least share of batches in running statistics that says anything


def pool(
    key: Key,
    variables: Variables,
    sparsity: ArrayLike,
    number: int,
    *,
    allocation: Allocation,
    prunable: Prunable | None = None,
) -> Masks:
    """Draws masks ``[C, ...]`` of the same sparsity with other densities of the layers.

    Candidate 0 has those of the rule, the others its densities times factors drawn from
    the log-uniform distribution, scaled back to the budget. Each keeps the largest
    weights of every layer.

    Args:
      key: of the factors.
      variables: whose weights are kept.
      sparsity: of each candidate.
      number: C.
      allocation: the rule, see `pruning.leaf_counts`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.

    Example:
      >>> w = {"a": jnp.ones((9, 10)), "b": jnp.ones((9, 9))}
      >>> masks = pool(jax.random.key(0), w, 0.5, 3, allocation="layer")
      >>> jax.tree.map(lambda leaf: leaf.sum((1, 2)).tolist(), masks)
      {'a': [45, 41, 57], 'b': [41, 45, 29]}
    """
    counts = leaf_counts(variables, sparsity, scope=allocation, prunable=prunable)
    uses = mask_algebra.prunable_leaves(variables, prunable)
    flat, structure = jax.tree.flatten(counts)
    picked = [i for i, use in enumerate(jax.tree.leaves(uses)) if use]
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(variables)]
    exponents = jax.random.uniform(key, (number, len(flat)), minval=-1.0)
    factors = (SPREAD**exponents).at[0].set(1.0)

    def candidate(factors: jax.Array, first: jax.Array) -> Masks:
        varied, others = list(flat), [flat[i] for i in picked]
        scaled = factors[jnp.array(picked, jnp.int32)]
        new = varied_counts([shapes[i] for i in picked], others, scaled)
        for i, count in zip(picked, new, strict=True):
            varied[i] = jnp.where(first, flat[i], count)
        counts = jax.tree.unflatten(structure, varied)
        return keep_counts(magnitude(variables), counts, prunable=prunable)

    return jax.vmap(candidate)(factors, jnp.arange(number) == 0)


def _over_batches(
    step: Callable[[PyTree, jax.Array, jax.Array], PyTree],
    start: PyTree,
    data: ClientData,
    batch_size: int,
) -> PyTree:
    """Folds ``step(value, slots, valid)`` over the batches that have examples."""
    length = data.y.shape[0]
    size = min(batch_size, length)
    slots = jnp.arange(-(-length // size) * size).reshape(-1, size)

    def body(value: PyTree, slots: jax.Array) -> tuple[PyTree, None]:
        valid = slots < data.sizes
        new = step(value, jnp.where(valid, slots, 0), valid)
        return trees.where(jnp.any(valid), trees.cast_like(new, value), value), None

    return jax.lax.scan(body, start, slots)[0]


def statistics(
    apply_fn: ApplyFn,
    variables: Variables,
    key: Key,
    data: ClientData,
    batch_size: int,
) -> Variables:
    """Returns the statistics of a client's batches: the collections beside ``params``.

    The later a batch, the more of it is in them, as the network's momentum has it.

    Args:
      apply_fn: the model's forward pass.
      variables: the model.
      key: of the order of the examples, and of what passes draw.
      data: one client's, ``[M, ...]``.
      batch_size: B.

    Returns:
      What is no float, and what forward passes do not average, as it was.
    """
    order_key, noise_key = jax.random.split(key)
    order = epoch_order(order_key, data.sizes, data.y.shape[0])
    numbers, with_keys = trees.hide_keys(noise_key)
    others = {name: tree for name, tree in variables.items() if name != "params"}
    params = {"params": variables["params"]}

    def step(value: Variables, slots: jax.Array, valid: jax.Array) -> Variables:
        x = data.x[order[slots]]
        noise = jax.random.fold_in(with_keys(numbers), slots[0])
        _, changed = training_pass(apply_fn, value | params, x, key=noise, valid=valid)
        return value | changed

    def passed(start: float) -> Variables:
        def filled(leaf: jax.Array) -> jax.Array:
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.full_like(leaf, start) if floating else leaf

        value = jax.tree.map(filled, others)
        return _over_batches(step, value, data, batch_size)

    # An average a x_1 + ... + b start: from 0 and from 1, it differs by b.
    def freed(low: jax.Array, high: jax.Array, old: jax.Array) -> jax.Array:
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return old
        share = 1 - (high.astype(jnp.float32) - low.astype(jnp.float32))
        some = share > _STARTED
        mean = low.astype(jnp.float32) / jnp.where(some, share, 1.0)
        return jnp.where(some, mean.astype(old.dtype), old)

    return jax.tree.map(freed, passed(0.0), passed(1.0), others)


def mean_loss(
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    variables: Variables,
    data: ClientData,
    batch_size: int,
) -> jax.Array:
    """Returns the mean loss of a client's examples, evaluated: a float32 scalar."""

    def step(total: jax.Array, slots: jax.Array, valid: jax.Array) -> jax.Array:
        outputs, _ = apply_fn(variables, data.x[slots])
        losses = example_losses(loss_fn, outputs, data.y[slots])
        return total + jnp.sum(jnp.where(valid, losses, 0.0))

    total = _over_batches(step, jnp.float32(0), data, batch_size)
    return total / jnp.maximum(data.sizes, 1).astype(jnp.float32)


def choose(
    key: Key,
    variables: Variables,
    masks: Masks,
    clients: Cohort,
    *,
    apply_fn: ApplyFn,
    loss_fn: LossFn,
    batch_size: int,
    client_map: ClientMap,
) -> tuple[Variables, Masks]:
    """Chooses the candidate with the least loss at the clients' averaged statistics.

    Args:
      key: of what the clients draw.
      variables: the model before any is pruned.
      masks: the candidates, ``[C, ...]``.
      clients: ids ``[P]`` and data ``[P, M, ...]``; those without examples count
        nothing.
      apply_fn: the model's forward pass.
      loss_fn: outputs and targets to a loss an example.
      batch_size: B.
      client_map: how the clients are run.

    Returns:
      The model under the chosen masks with its statistics, and the masks.
    """
    data = clients.data
    assert clients.ids is not None
    models = jax.vmap(mask_algebra.apply, in_axes=(0, None))(masks, variables)

    def measured(models: Variables, client: Any) -> Variables:
        key, data = client
        numbers, with_keys = trees.hide_keys(key)
        return jax.vmap(
            lambda model: statistics(
                apply_fn, model, with_keys(numbers), data, batch_size
            )
        )(models)

    def judged(models: Variables, data: ClientData) -> jax.Array:
        return jax.vmap(
            lambda model: mean_loss(apply_fn, loss_fn, model, data, batch_size)
        )(models)

    if len(variables) > 1:
        keys = client_keys(key, clients.ids)
        _, each = client_map(measured, models, (keys, data))
        models = models | weighted_mean(each, data.sizes)
    _, losses = client_map(judged, models, data)  # [P, C]
    present = (data.sizes > 0)[:, jnp.newaxis]
    total = jnp.sum(jnp.where(present, losses, 0.0), axis=0)
    best = jnp.argmin(jnp.where(jnp.isnan(total), jnp.inf, total))
    return trees.take(models, best), trees.take(masks, best)


def traffic(number: int) -> Callable[[Variables, Masks], tuple[jax.Array, jax.Array]]:
    """Builds the bytes of a selection among so many candidates, see `method.Setup`.

    A client gets the candidates, and later their averaged statistics; it sends the
    statistics and a loss of each.
    """

    def count(variables: Variables, masks: Masks) -> tuple[jax.Array, jax.Array]:
        others = trees.size(variables) - trees.size(variables["params"])
        up = number * BYTES_PER_NUMBER * (others + 1)
        down = number * kept_bytes(masks)
        again = number * BYTES_PER_NUMBER * others
        return jnp.uint32(up), down + jnp.uint32(again)

    return count

"""Training of a sparse model on the answers of the dense one that it was made of."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared import straight_through
from fedsparsify_jax.method import (
    Batch,
    BatchLoss,
    Context,
    Method,
    ObjectiveFn,
    no_projection,
)
from fedsparsify_jax.pruning.selection import keep_counts, magnitude
from fedsparsify_jax.training.distillation import based_divergence, soft_labels
from fedsparsify_jax.training.local import TrainFn, batch_loss, local_training
from fedsparsify_jax.training.losses import cross_entropy
from fedsparsify_jax.training.statistics import batches_in_order
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    Key,
    Prunable,
    PyTree,
    Variables,
)


class Distillation(NamedTuple):
    """The settings of `distilled`; numbers may be traced, but for the sizes."""

    epochs: int
    batch_size: int
    learning_rate: ArrayLike  # of the first step; it goes to 0 on half a cosine
    temperature: ArrayLike  # of the dense model's answers
    pruned_decay: ArrayLike  # of weights that are pruned
    momentum: ArrayLike = 0.9
    weight_decay: ArrayLike = 1e-4


def decaying_base(epoch: ArrayLike) -> jax.Array:
    """Returns tau_e = 8 * 0.99^e, with e from 0.

    >>> [round(float(decaying_base(e)), 3) for e in (0, 1, 99)]
    [8.0, 7.92, 2.958]
    """
    return 8.0 * 0.99 ** jnp.asarray(epoch, jnp.float32)


def objective(
    apply_fn: ApplyFn, counts: PyTree, s: Distillation, prunable: Prunable | None = None
) -> ObjectiveFn:
    """Builds the base-decayed loss of weights through masks that are anew every step.

    A batch has shares of classes for targets, and the context the epoch for a round.

    Args:
      apply_fn: the model's forward pass.
      counts: what every leaf keeps, int32 scalars.
      s: ``temperature`` and ``pruned_decay`` of it.
      prunable: path of a leaf to whether it may be pruned.
    """

    def of_batch(
        loss: BatchLoss, variables: Variables, batch: Batch, key: Key, context: Context
    ) -> tuple[jax.Array, Variables]:
        del loss  # of labels
        scores = magnitude(jax.lax.stop_gradient(variables))
        masks = keep_counts(scores, counts, prunable=prunable)["params"]
        w, tau = variables["params"], decaying_base(context.round)
        distance = batch_loss(
            apply_fn, lambda outputs, shares: based_divergence(shares, outputs, tau)
        )
        used = variables | {"params": straight_through.through(w, masks)}
        value, changed = distance(used, batch, key)
        decay = straight_through.penalty(w, masks, s.pruned_decay)
        return value * jnp.square(s.temperature) + decay, changed

    return of_batch


def distilled(
    apply_fn: ApplyFn,
    key: Key,
    dense: Variables,
    counts: PyTree,
    data: ClientData,
    s: Distillation,
    *,
    prunable: Prunable | None = None,
) -> Variables:
    """Trains a dense model through masks, on its own answers from before.

    Args:
      apply_fn: the model's forward pass.
      key: of the batches' order, and of what the model draws.
      dense: the model, teacher and start.
      counts: what every leaf keeps, int32 scalars.
      data: of one client; its targets are not used.
      s: the settings.
      prunable: path of a leaf to whether it may be pruned.

    Returns:
      Dense weights, whose largest are the sparse model.
    """
    batches = batches_in_order(data, s.batch_size)
    outputs = jax.lax.map(lambda x: apply_fn(dense, x)[0], batches.x)
    shares = soft_labels(outputs, s.temperature)
    answers = shares.reshape(-1, *shares.shape[2:])[: len(data.y)]
    data = data._replace(y=answers)
    masks = mask_algebra.ones_like(dense)
    optimizer = _optimizer(s, s.epochs * -(-data.sizes // s.batch_size))
    train = _epoch_of(apply_fn, optimizer, objective(apply_fn, counts, s, prunable), s)

    def epoch(
        carry: tuple[Variables, PyTree], number: jax.Array
    ) -> tuple[tuple[Variables, PyTree], None]:
        variables, state = carry
        context = Context(number, jnp.float32(0), dense, masks, (), ())
        now = jax.random.fold_in(key, number)
        new = train(now, variables, masks, state, data, context)
        return (new.variables, new.optimizer), None

    start = dense, optimizer.init(dense["params"])
    (trained, _), _ = jax.lax.scan(epoch, start, jnp.arange(s.epochs))
    return trained


def _optimizer(s: Distillation, steps: jax.Array) -> optax.GradientTransformation:
    def rate(step: jax.Array) -> jax.Array:
        return jnp.asarray(s.learning_rate) / 2 * (1 + jnp.cos(jnp.pi * step / steps))

    decay = optax.add_decayed_weights(s.weight_decay)
    return optax.chain(decay, optax.sgd(rate, s.momentum))


def _epoch_of(
    apply_fn: ApplyFn,
    optimizer: optax.GradientTransformation,
    objective: ObjectiveFn,
    s: Distillation,
) -> TrainFn:
    method = Method(
        aggregate=aggregate("mean"), objective=objective, project=no_projection
    )
    loss = batch_loss(apply_fn, cross_entropy)
    return local_training(loss, optimizer, method, epochs=1, batch_size=s.batch_size)

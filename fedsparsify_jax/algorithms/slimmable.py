"""Slimmable training: one network that is good at several sparsities.

After Zhao, Zhu, Wang and Yang, *Slimmable Networks for Contrastive Self-supervised
Learning* (SlimCLR), IJCV 2024, arXiv 2209.15525, with its remedies against the
interference of sub-networks; these are nested masks here, and widths there.

Levels s_0 < s_1 < ... of sparsity, with weights w and masks m_0 > m_1 > ... that keep
the largest |w|, all layers together. In round t, with the sparsity s_t of FedSparsify's
schedule, whose end is the last level, and z_i the logits at m_i * w:

    tune    until round S:   F = loss(z_0)
            after it:        F = l_0 loss(z_0) + sum_{i > 0} ((1 - b) loss(z_i)
                                 + b KL(softmax(z_0 / c) || softmax(z_i / c)))
            l_0 = 1 + sum_{i > 0} (1 - s_i) / (1 - s_0);  no gradient goes through z_0
            in the second term;  weights are projected by m_0 at every step
    merge   w   <- sum_k n_k w_k / sum_k n_k
    purge   m_i <- in m_{i - 1}, the largest |w| down to min(s_i, s_t);  w <- m_0 * w

S is half of all rounds (slow start), b is 1/2 (online distillation). For densities of
1, 3/4, 1/2 and 1/4, the weights of the losses are the paper's 2.5, 1, 1, 1. Running
statistics, if the network has any, are those of level 0 and one set for every other
level (switchable norms), averaged by the server and counted like the model. The rounds
report level 0; all levels are the algorithm's ``variants``.

The loss is that of the labels, or the contrastive one of two views of every example
without them, as SlimCLR on SimCLR has it: z_i are then the similarities of the 2 B
views of a batch, a row for each, see `training.contrastive`. Such networks are judged
by a linear classifier of the inputs of their last layer, fitted for every level by
itself (switchable probe): `training.linear_probe`.

Deviations: masks of levels change once a round, as the server's do. c is 1, which the
paper has for MoCo v3 (5 for v2, of similarities). Widths are relative to level 0. What
m_0 drops stays dropped; a weight may come back to other levels. Of the contrastive
loss: the last layer is the projection, linear and as wide as there are classes, where
SimCLR has two layers and 128 numbers, so that model and messages are the same as with
labels; tau is 0.2, the paper's for MoCo v2; clients compare the views of their own
batches alone, whatever their classes.

Checked against: NumPy, in tests/algorithms/test_slimmable.py and, of the contrastive
loss, tests/training/test_contrastive.py; formulas and defaults of the paper as the
maintainers' notes on its code have them.
"""

from collections.abc import Callable, Sequence
from typing import Unpack, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import schedules, trees
from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared import nested
from fedsparsify_jax.engine import EngineOptions, engine, resolve
from fedsparsify_jax.engine.wrappers.ema import with_ema
from fedsparsify_jax.masks import apply
from fedsparsify_jax.method import (
    Batch,
    BatchLoss,
    Context,
    Method,
    ObjectiveFn,
    ServerTransform,
    Uploads,
)
from fedsparsify_jax.pruning.selection import magnitude, prune
from fedsparsify_jax.training.contrastive import of_two_views
from fedsparsify_jax.training.distillation import divergence, soft_labels
from fedsparsify_jax.training.forward import training_pass
from fedsparsify_jax.training.losses import example_losses
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Key,
    LossFn,
    Masks,
    Prunable,
    PyTree,
    Schedule,
    Scope,
    TrainingLoss,
    Variables,
)


def slimmable(
    apply_fn: ApplyFn,
    *,
    levels: Sequence[ArrayLike] = (0.8, 0.9, 0.95, 0.99),
    slow_start: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    distillation: ArrayLike = 0.5,
    loss: TrainingLoss = "supervised",
    similarity_temperature: ArrayLike = 0.2,
    rounds: ArrayLike = 200,
    begin: ArrayLike = 1,
    exponent: ArrayLike = 3.0,
    every: int = 1,
    fine_tune_rounds: int = 0,
    schedule: Schedule | None = None,
    merge: str | ValueMerge = "mean",
    scope: Scope = "global",
    prunable: Prunable | None = None,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds slimmable training.

    Args:
      apply_fn: the model's forward pass.
      levels: s_0, s_1, ..., rising and in [0, 1); the numbers may be traced.
      slow_start: S, the last round in which level 0 alone is trained; T / 2 by default.
      temperature: c, of the distillation.
      distillation: b in [0, 1].
      loss: what every level learns from. ``contrastive`` takes its views from the
        model, which must augment in training: `data.random_view`, say. The last layer
        becomes a classifier's later on: spare it from pruning (``prunable``).
      similarity_temperature: tau, of the contrastive loss.
      rounds: T, the last round.
      begin: t0.
      exponent: n.
      every: F.
      fine_tune_rounds: the last rounds, in which no level becomes sparser any more.
      schedule: any other schedule of the last level, in place of the polynomial.
      merge: a name of `merges.NAMES` or a function of that signature.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for levels that do not rise from 0 or more to below 1, an unknown
        loss or merge, or impossible rounds.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = slimmable(model.apply, levels=(0.5, 0.9), rounds=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> for name, variables in algorithm.variants(state).items():
      ...     kept = int(trees.nonzeros(variables)) / trees.size(variables)
      ...     print(name, round(kept, 3))
      0.5 0.5
      0.9 0.1
    """
    levels = tuple(levels)
    _check(levels, distillation, loss)
    end = schedules.last_purge(rounds, fine_tune_rounds, schedule)
    of_last = schedule or schedules.polynomial(
        levels[-1], end=end, begin=begin, exponent=exponent, every=every
    )
    prunable = nested.others(prunable)
    if loss == "supervised":
        answers = _of_labels(apply_fn, resolve(options).loss_fn)
    else:
        answers = _of_views(apply_fn, similarity_temperature)
    objective = _together(
        answers,
        levels,
        rounds / 2 if slow_start is None else slow_start,
        temperature,
        distillation,
    )
    method = Method(
        schedule=lambda t: jnp.minimum(of_last(t), levels[0]),
        aggregate=aggregate(merge),
        objective=objective,
        server=_purge(levels, of_last, scope, prunable),
        prunable=prunable,
    )
    decay = options.pop("server_ema", None)  # around the variants, too
    algorithm = engine(apply_fn, method, **options)
    names = [str(level) for level in levels]
    return with_ema(decay, nested.with_levels(algorithm, names))


def loss_weights(levels: Sequence[ArrayLike]) -> list[ArrayLike]:
    """Returns l_0, and the ones of the other levels.

    >>> loss_weights((0.0, 0.25, 0.5, 0.75))
    [2.5, 1.0, 1.0, 1.0]
    """
    first, *others = levels
    return [1.0 + sum((1.0 - s) / (1.0 - first) for s in others), *(1.0,) * len(others)]


def _check(levels: Sequence[ArrayLike], distillation: ArrayLike, loss: str) -> None:
    numbers = [level for level in levels if isinstance(level, int | float)]
    if not levels:
        raise ValueError("levels are none: give at least one sparsity")
    if not all(0 <= a < 1 for a in numbers) or sorted({*numbers}) != numbers:
        listed = ", ".join(map(str, levels))
        raise ValueError(f"levels are {listed}: they must rise, from 0 to below 1")
    if isinstance(distillation, int | float) and not 0 <= distillation <= 1:
        raise ValueError(f"distillation is {distillation}: it must be from 0 to 1")
    if loss not in (names := get_args(TrainingLoss)):
        raise ValueError(f"loss is {loss!r}: it must be one of {', '.join(names)}")


# (variables of a level, batch, key) -> (z [R, ...], losses [R], changed collections)
_Answers = Callable[[Variables, Batch, Key], tuple[jax.Array, jax.Array, Variables]]


def _of_labels(apply_fn: ApplyFn, loss_fn: LossFn) -> _Answers:
    """Builds the logits of a batch's examples, and the losses of their labels."""

    def answers(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[jax.Array, jax.Array, Variables]:
        z, changed = training_pass(
            apply_fn, variables, batch.x, key=key, valid=batch.valid
        )
        return z, example_losses(loss_fn, z, batch.y), changed

    return answers


def _of_views(apply_fn: ApplyFn, temperature: ArrayLike) -> _Answers:
    """Builds the similarities of a batch's views, and their contrastive losses."""

    def answers(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[jax.Array, jax.Array, Variables]:
        return of_two_views(apply_fn, variables, batch, key, temperature)

    return answers


def _together(
    answers: _Answers,
    levels: Sequence[ArrayLike],
    slow_start: ArrayLike,
    temperature: ArrayLike,
    b: ArrayLike,
) -> ObjectiveFn:
    """Builds F; the depths of the weights are in ``context.server``."""
    weights, numbers = loss_weights(levels), range(len(levels))

    def changed_by(variables: Variables, changed: list[Variables]) -> Variables:
        if nested.COLLECTION not in variables:
            return changed[0]
        old = variables[nested.COLLECTION]
        new = {str(i): old[str(i)] | changed[i] for i in numbers[1:]}
        return changed[0] | {nested.COLLECTION: new}

    def objective(
        loss: BatchLoss, variables: Variables, batch: Batch, key: Key, context: Context
    ) -> tuple[jax.Array, Variables]:
        del loss  # that of labels, which `answers` has
        hidden, with_keys = trees.hide_keys(key)

        def mean(losses: jax.Array) -> jax.Array:
            valid = jnp.tile(batch.valid, len(losses) // len(batch.valid))
            total = jnp.where(valid, losses, 0.0)
            rows = jnp.sum(valid, dtype=total.dtype)
            return jnp.sum(total) / jnp.maximum(rows, 1.0)

        def alone() -> tuple[jax.Array, Variables]:
            first = nested.without(variables)
            _, losses, changed = answers(first, batch, with_keys(hidden))
            return mean(losses), changed_by(variables, [changed] * len(levels))

        def all_levels() -> tuple[jax.Array, Variables]:
            outputs, losses, changed = zip(
                *(
                    answers(
                        nested.of_level(variables, context.server, i),
                        batch,
                        with_keys(hidden),
                    )
                    for i in numbers
                ),
                strict=True,
            )
            first, *others = losses
            total = weights[0] * first
            shares = soft_labels(outputs[0], temperature)
            for own, z in zip(others, outputs[1:], strict=True):
                total += (1 - b) * own + b * divergence(shares, z / temperature)
            return mean(total), changed_by(variables, list(changed))

        if len(levels) == 1:
            return alone()
        return jax.lax.cond(context.round > slow_start, all_levels, alone)

    return objective


def _purge(
    levels: Sequence[ArrayLike],
    schedule: Schedule,
    scope: Scope,
    prunable: Prunable | None,
) -> ServerTransform:
    """Builds the purge of level 0, and the depths of what it keeps."""

    def init(variables: Variables, masks: Masks) -> PyTree:
        del variables
        everywhere = jnp.uint8(len(levels))
        return jax.tree.map(
            lambda mask: jnp.full(mask.shape, everywhere), masks["params"]
        )

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        del key, uploads
        scores, now = magnitude(variables), schedule(context.round)
        masks = prune(
            scores, context.sparsity, scope=scope, within=masks, prunable=prunable
        )
        variables = apply(masks, variables)
        targets = [jnp.minimum(now, level) for level in levels[1:]]
        depth = nested.depths(variables, masks, targets, scope=scope, prunable=prunable)
        return variables, masks, depth

    return ServerTransform(init, update)

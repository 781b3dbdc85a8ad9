"""One client's epochs as a pure function, written for one client and vmapped over many.

Epochs are true epochs: every example once, in a fresh order. The last short batch is
kept and its loss is the mean over its real examples. Clients shorter than the longest
one run out of batches: their remaining steps change nothing, neither weights nor
momentum.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedsparsify_jax import trees
from fedsparsify_jax.method import Batch, BatchLoss, Context, GradFn, Method, Step
from fedsparsify_jax.training.forward import training_pass
from fedsparsify_jax.training.losses import example_losses
from fedsparsify_jax.training.optimizers import extra_arguments, for_clients
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    Key,
    LossFn,
    Masks,
    PyTree,
    Variables,
)


class Trained(NamedTuple):
    """Result of one client's local training."""

    variables: Variables
    optimizer: PyTree  # optimizer state
    memory: PyTree  # see `method.GradientTransform`
    loss: jax.Array  # float32 scalar: mean over the examples seen, in order


class TrainFn(Protocol):
    """One client's training; ``data`` has no leading axis.

    ``memory`` continues an earlier training of the same round; None starts afresh.
    ``effort`` is the share of its steps that the client makes, float32, at least one of
    them unless it is 0; None for all.
    """

    def __call__(
        self,
        key: Key,
        variables: Variables,
        masks: Masks,
        optimizer_state: PyTree,
        data: ClientData,
        context: Context,
        memory: PyTree | None = None,
        effort: jax.Array | None = None,
    ) -> Trained: ...


class StepLoss(NamedTuple):
    """The loss of one step in place of the model's."""

    loss: BatchLoss
    batch: Batch  # the batch that the objective is given
    check: Callable[[], None]  # called after the step's gradient was traced


class StepLossFn(Protocol):
    """Replaces the loss of a step: ``size`` are the client's examples, int32.

    ``key`` is the step's, of which the objective draws too; ``kept`` takes a tree of
    parameters to that tree without what the client's masks prune.
    """

    def __call__(
        self,
        loss: BatchLoss,
        batch: Batch,
        size: jax.Array,
        key: Key,
        kept: Callable[[PyTree], PyTree],
    ) -> StepLoss: ...


def continued(first: Trained, second: Trained, epochs: tuple[float, float]) -> Trained:
    """Joins two trainings of one client in a row, given the epochs of each."""
    share = epochs[1] / sum(epochs)
    return second._replace(loss=(1 - share) * first.loss + share * second.loss)


def epoch_keys(key: Key, epoch: jax.Array) -> tuple[Key, Key]:
    """Returns the keys of one epoch: of its order, and of what its steps draw."""
    order_key, step_key = jax.random.split(jax.random.fold_in(key, epoch))
    return order_key, step_key


def epoch_order(key: Key, size: jax.Array, length: int) -> jax.Array:
    """Draws a fresh order of a client's examples: int32 ``[length]``.

    The first ``size`` entries are a uniformly random permutation of
    ``0 .. size - 1``, the rest is padding.

    >>> sorted(epoch_order(jax.random.key(0), jnp.int32(3), 5)[:3].tolist())
    [0, 1, 2]
    """
    priority = jax.random.bits(key, (length,))
    padding = jnp.arange(length) >= size
    priority = jnp.where(padding, jnp.uint32(0xFFFFFFFF), priority)
    return jnp.argsort(priority)  # stable, so padding stays behind on ties


def batch_loss(apply_fn: ApplyFn, loss_fn: LossFn) -> BatchLoss:
    """Builds the mean loss of the valid examples of a batch."""

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[jax.Array, Variables]:
        outputs, changed = training_pass(
            apply_fn, variables, batch.x, key=key, valid=batch.valid
        )
        losses = example_losses(loss_fn, outputs, batch.y)
        losses = jnp.where(batch.valid, losses, 0.0)
        examples = jnp.sum(batch.valid, dtype=losses.dtype)
        return jnp.sum(losses) / jnp.maximum(examples, 1.0), changed

    return loss


def step_limit(effort: jax.Array, total: jax.Array) -> jax.Array:
    """Returns how many of its steps a client makes: int32.

    >>> [int(step_limit(jnp.float32(e), jnp.int32(10))) for e in (1, 0.39, 0.01, 0)]
    [10, 3, 1, 0]
    """
    steps = jnp.floor(effort * total + 1e-4).astype(jnp.int32)
    return jnp.where(effort > 0, jnp.clip(steps, 1, total), 0)


class _Carry(NamedTuple):
    variables: Variables
    optimizer: PyTree
    memory: PyTree
    loss: jax.Array  # sum over the examples seen


# (carry, batch, key, whether the step is made) -> carry
_Update = Callable[[_Carry, Batch, Key, ArrayLike], _Carry]


def _step_on(
    loss: BatchLoss,
    optimizer: optax.GradientTransformation,
    method: Method,
    step_loss: StepLossFn | None,
) -> Callable[[Masks, Context, jax.Array], _Update]:
    """Builds the step on one batch: gradient, optimizer, projection."""
    change = for_clients(optimizer).update

    def step(
        masks: Masks,
        context: Context,
        size: jax.Array,
        carry: _Carry,
        batch: Batch,
        key: Key,
        made: ArrayLike,
    ) -> _Carry:
        # Every use of the step's key has its own, or it would count as used twice.
        numbers, with_keys = trees.hide_keys(key)

        def kept(params: PyTree) -> PyTree:
            variables = carry.variables | {"params": params}
            return method.project(masks, variables)["params"]

        used = StepLoss(loss, batch, lambda: None)
        if step_loss is not None:
            used = step_loss(loss, batch, size, with_keys(numbers), kept)
        (value, changed), gradients, memory = method.gradient.update(
            _gradient_of(method, used, lambda: with_keys(numbers), context),
            carry.variables,
            carry.memory,
            context._replace(step=Step(masks, with_keys(numbers))),
        )
        used.check()

        def value_at(params: PyTree) -> jax.Array:
            variables = method.project(masks, carry.variables | {"params": params})
            same = with_keys(numbers)
            return method.objective(loss, variables, batch, same, context)[0]

        params, gradient = carry.variables["params"], gradients["params"]
        extra: dict[str, Any] = {"project": kept}
        if step_loss is None:  # else examples would show in more than the gradient
            extra = extra_arguments(value, gradient, value_at, kept)
        updates, state = change(gradient, carry.optimizer, params, **extra)
        weights = {"params": optax.apply_updates(params, updates)}
        seen = jnp.sum(batch.valid, dtype=jnp.float32)
        new = _Carry(
            variables=method.project(masks, carry.variables | changed | weights),
            optimizer=state,
            memory=memory,
            loss=carry.loss + value * seen,
        )
        # Data of 64 bits, or an optimizer that computes in them, change no dtype.
        return trees.where((seen > 0) & made, trees.cast_like(new, carry), carry)

    return lambda masks, context, size: partial(step, masks, context, size)


def _gradient_of(
    method: Method, used: StepLoss, key: Callable[[], Key], context: Context
) -> GradFn:
    """Builds the function of variables that gives a step's loss and gradients."""

    def objective(weights: Variables, others: Variables) -> Any:
        variables = others | weights
        return method.objective(used.loss, variables, used.batch, key(), context)

    def split(variables: Variables) -> tuple[Variables, Variables]:
        others = {name: tree for name, tree in variables.items() if name != "params"}
        return {"params": variables["params"]}, others

    return lambda variables: jax.value_and_grad(objective, has_aux=True)(
        *split(variables)
    )


def _epoch(
    update: _Update,
    data: ClientData,
    batch_size: int,
    limit: jax.Array | None,
    carry: _Carry,
    epoch_key: Key,
    number: jax.Array,
) -> _Carry:
    """Runs one epoch: all steps of the longest client, of which some do nothing."""
    length = data.y.shape[0]
    steps = -(-length // batch_size)
    slots = jnp.arange(steps * batch_size).reshape(steps, batch_size)
    order_key, step_key = epoch_keys(epoch_key, number)
    order = epoch_order(order_key, data.sizes, length)
    before = number * -(-data.sizes // batch_size)  # steps in the epochs before

    def step(carry: _Carry, slot: jax.Array) -> tuple[_Carry, None]:
        valid = slot < data.sizes
        # Padding repeats a real example, so whatever fills the padded rows never
        # enters a computation; `valid` takes the repeats out again.
        index = order[jnp.where(valid, slot, 0)]
        batch = Batch(data.x[index], data.y[index], valid)
        key = jax.random.fold_in(step_key, slot[0])
        made = True if limit is None else before + slot[0] // batch_size < limit
        return update(carry, batch, key, made), None

    return jax.lax.scan(step, carry, slots)[0]


def _steps(
    update: _Update,
    data: ClientData,
    batch_size: int,
    steps: int,
    limit: jax.Array | None,
    carry: _Carry,
    epoch_key: Key,
) -> _Carry:
    """Runs so many steps, epoch after epoch of the client's own length.

    Orders and keys are those of `_epoch`. Clients differ in the steps of an epoch, so
    every step draws its epoch's order anew: a sort of the numbers of its examples.
    """
    length = data.y.shape[0]
    in_epoch = jnp.maximum(-(-data.sizes // batch_size), 1)
    slots = jnp.arange(batch_size)

    def step(carry: _Carry, number: jax.Array) -> tuple[_Carry, None]:
        order_key, step_key = epoch_keys(epoch_key, number // in_epoch)
        order = epoch_order(order_key, data.sizes, length)
        slot = number % in_epoch * batch_size + slots
        valid = slot < data.sizes
        index = order[jnp.where(valid, slot, 0)]
        batch = Batch(data.x[index], data.y[index], valid)
        key = jax.random.fold_in(step_key, slot[0])
        made = True if limit is None else number < limit
        return update(carry, batch, key, made), None

    return jax.lax.scan(step, carry, jnp.arange(steps))[0]


def _examples_seen(
    size: jax.Array, epochs: int, batch_size: int, limit: jax.Array | None
) -> jax.Array:
    """Returns how many examples the steps of a client saw, at least 1: float32."""
    seen = size * epochs
    if limit is not None:
        steps = -(-size // batch_size)  # in an epoch
        whole = limit // jnp.maximum(steps, 1)
        last = jnp.minimum((limit - whole * steps) * batch_size, size)
        seen = whole * size + last
    return jnp.maximum(seen, 1).astype(jnp.float32)


def local_training(
    loss: BatchLoss,
    optimizer: optax.GradientTransformation,
    method: Method,
    *,
    epochs: float,
    batch_size: int,
    steps: int | None = None,
    step_loss: StepLossFn | None = None,
) -> TrainFn:
    """Builds the local training of one client.

    Args:
      loss: mean loss of a batch.
      optimizer: any Optax transformation, see `optimizers.for_clients`; its state is
        that of the tree ``variables["params"]``. The other collections change only
        through what the forward pass returns.
      method: its hooks ``objective``, ``gradient`` and ``project`` are used here.
      epochs: E, passes over the client's examples; of a fraction of one, so many of
        its steps, rounded down, but at least one of all.
      batch_size: B.
      steps: of every client, whatever it holds, in place of E epochs: as many epochs
        as they make, and the beginning of another.
      step_loss: what replaces the loss of every step, such as that of
        `privacy.private_steps`. The optimizer then gets gradients and nothing else.

    Returns:
      ``(key, variables, masks, optimizer_state, data, context) -> Trained``.

    Raises:
      ValueError: for a negative number of epochs or steps, or an empty batch.
    """
    if epochs < 0:
        raise ValueError(f"epochs is {epochs}: it must be at least 0")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
    if steps is not None and steps < 1:
        raise ValueError(f"local_steps is {steps}: it must be at least 1")
    whole = math.ceil(epochs)
    step_on = _step_on(loss, optimizer, method, step_loss)

    def limit_of(size: jax.Array, effort: jax.Array | None) -> jax.Array | None:
        """Returns the number of steps that are made; None for all there are."""
        total = jnp.int32(steps) if steps else -(-size // batch_size) * whole
        limit = None
        if steps is None and epochs != whole:
            limit = total = step_limit(jnp.float32(epochs / whole), total)
        return limit if effort is None else step_limit(effort, total)

    def train(
        key: Key,
        variables: Variables,
        masks: Masks,
        optimizer_state: PyTree,
        data: ClientData,
        context: Context,
        memory: PyTree | None = None,
        effort: jax.Array | None = None,
    ) -> Trained:
        limit = limit_of(data.sizes, effort)
        update = step_on(masks, context._replace(data=data), data.sizes)

        def epoch(carry: _Carry, number: jax.Array) -> tuple[_Carry, None]:
            new = _epoch(update, data, batch_size, limit, carry, key, number)
            return new, None

        start = method.project(masks, variables)
        memory = method.gradient.init(start) if memory is None else memory
        carry = _Carry(start, optimizer_state, memory, jnp.float32(0))
        if steps is None:
            carry, _ = jax.lax.scan(epoch, carry, jnp.arange(whole))
        else:
            carry = _steps(update, data, batch_size, steps, limit, carry, key)
            limit = jnp.int32(steps) if limit is None else limit
        seen = _examples_seen(data.sizes, whole, batch_size, limit)
        return Trained(
            variables=carry.variables,
            optimizer=carry.optimizer,
            memory=carry.memory,
            loss=carry.loss / seen,
        )

    return train

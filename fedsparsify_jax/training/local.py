"""One client's epochs as a pure function, written for one client and vmapped over many.

Epochs are true epochs: every example once, in a fresh order. The last short batch is
kept and its loss is the mean over its real examples. Clients shorter than the longest
one run out of batches: their remaining steps change nothing, neither weights nor
momentum.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedsparsify_jax import trees
from fedsparsify_jax.method import Batch, BatchLoss, Context, Method, mean_loss
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
    memory: PyTree  # see Method.memory
    loss: jax.Array  # float32 scalar: mean over the examples seen, in order


class TrainFn(Protocol):
    """One client's training; ``data`` has no leading axis.

    ``memory`` continues what an earlier training of the same round accumulated; None
    starts afresh with `Method.memory`. ``effort`` is the share of its steps that the
    client makes, float32, at least one of them unless it is 0; None for all.
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


def continued(first: Trained, second: Trained, epochs: tuple[int, int]) -> Trained:
    """Two trainings of one client in a row as one, given the epochs of each."""
    share = epochs[1] / sum(epochs)
    return second._replace(loss=(1 - share) * first.loss + share * second.loss)


def epoch_keys(key: Key, epoch: jax.Array) -> tuple[Key, Key]:
    """The keys of one epoch: of its order, and of what its steps draw."""
    order_key, step_key = jax.random.split(jax.random.fold_in(key, epoch))
    return order_key, step_key


def epoch_order(key: Key, count: jax.Array, length: int) -> jax.Array:
    """A fresh order of a client's examples: int32 ``[length]``.

    The first ``count`` entries are a uniformly random permutation of
    ``0 .. count - 1``, the rest is padding.

    >>> sorted(epoch_order(jax.random.key(0), jnp.int32(3), 5)[:3].tolist())
    [0, 1, 2]
    """
    priority = jax.random.bits(key, (length,))
    padding = jnp.arange(length) >= count
    priority = jnp.where(padding, jnp.uint32(0xFFFFFFFF), priority)
    return jnp.argsort(priority)  # stable, so padding stays behind on ties


def batch_loss(apply_fn: ApplyFn, loss_fn: LossFn) -> BatchLoss:
    """The mean loss of the valid examples of a batch as a function of variables."""

    def loss(
        variables: Variables, batch: Batch, key: Key
    ) -> tuple[jax.Array, Variables]:
        outputs, changed = apply_fn(
            variables, batch.x, train=True, key=key, valid=batch.valid
        )
        return mean_loss(loss_fn(outputs, batch.y), batch.valid), changed

    return loss


def steps_made(effort: jax.Array, total: jax.Array) -> jax.Array:
    """How many of its steps a client makes: int32.

    >>> [int(steps_made(jnp.float32(e), jnp.int32(10))) for e in (1, 0.39, 0.01, 0)]
    [10, 3, 1, 0]
    """
    made = jnp.floor(effort * total + 1e-4).astype(jnp.int32)
    return jnp.where(effort > 0, jnp.clip(made, 1, total), 0)


class _Carry(NamedTuple):
    variables: Variables
    optimizer: PyTree
    memory: PyTree
    loss: jax.Array  # sum over the examples seen


def local_training(
    loss: BatchLoss,
    optimizer: optax.GradientTransformation,
    method: Method,
    *,
    epochs: int,
    batch_size: int,
    trained: tuple[str, ...] = ("params",),
) -> TrainFn:
    """Builds the local training of one client.

    Args:
      loss: mean loss of a batch.
      optimizer: any Optax transformation; its state covers the trained collections.
      method: its hooks ``objective``, ``memory``, ``gradient`` and ``project`` are
        used here.
      epochs: E, passes over the client's examples.
      batch_size: B.
      trained: collections that the optimizer changes; the others change only through
        what the forward pass returns.

    Returns:
      ``(key, variables, masks, optimizer_state, data, context) -> Trained``.
    """
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}: it must be at least 1")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be at least 1")

    def grad_of(batch: Batch, key: Key, context: Context) -> Callable[..., Any]:
        def objective(weights: Variables, others: Variables) -> Any:
            return method.objective(loss, others | weights, batch, key, context)

        def grad_fn(variables: Variables) -> Any:
            weights, others = split(variables)
            return jax.value_and_grad(objective, has_aux=True)(weights, others)

        return grad_fn

    def split(variables: Variables) -> tuple[Variables, Variables]:
        weights = {name: tree for name, tree in variables.items() if name in trained}
        others = {name: tree for name, tree in variables.items() if name not in trained}
        return weights, others

    def update(
        carry: _Carry,
        batch: Batch,
        key: Key,
        masks: Masks,
        context: Context,
        made: ArrayLike,
    ) -> _Carry:
        (value, changed), gradients, memory = method.gradient(
            grad_of(batch, key, context), carry.variables, carry.memory, context
        )
        weights, _ = split(carry.variables)
        updates, state = optimizer.update(gradients, carry.optimizer, weights)
        weights = optax.apply_updates(weights, updates)
        variables = method.project(masks, carry.variables | changed | weights)
        seen = jnp.sum(batch.valid, dtype=jnp.float32)
        new = _Carry(variables, state, memory, carry.loss + value * seen)
        return trees.where((seen > 0) & made, new, carry)

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
        length = data.y.shape[0]
        steps = -(-length // batch_size)
        own = -(-data.count // batch_size)  # steps in an epoch of this client
        most = None if effort is None else steps_made(effort, own * epochs)
        slots = jnp.arange(steps * batch_size).reshape(steps, batch_size)

        def epoch(carry: _Carry, number: jax.Array) -> tuple[_Carry, None]:
            order_key, step_key = epoch_keys(key, number)
            order = epoch_order(order_key, data.count, length)

            def step(carry: _Carry, slot: jax.Array) -> tuple[_Carry, None]:
                valid = slot < data.count
                # Padding repeats a real example, so whatever fills the padded rows
                # never enters a computation; `valid` takes the repeats out again.
                index = order[jnp.where(valid, slot, 0)]
                batch = Batch(data.x[index], data.y[index], valid)
                noise = jax.random.fold_in(step_key, slot[0])
                done = number * own + slot[0] // batch_size  # steps before this one
                made = True if most is None else done < most
                return update(carry, batch, noise, masks, context, made), None

            return jax.lax.scan(step, carry, slots)[0], None

        start = method.project(masks, variables)
        memory = method.memory(start) if memory is None else memory
        carry = _Carry(start, optimizer_state, memory, jnp.float32(0))
        carry, _ = jax.lax.scan(epoch, carry, jnp.arange(epochs))
        seen = data.count * epochs
        if most is not None:
            whole = most // jnp.maximum(own, 1)
            rest = jnp.minimum((most - whole * own) * batch_size, data.count)
            seen = whole * data.count + rest
        seen = jnp.maximum(seen, 1).astype(jnp.float32)
        return Trained(
            carry.variables, carry.optimizer, carry.memory, carry.loss / seen
        )

    return train

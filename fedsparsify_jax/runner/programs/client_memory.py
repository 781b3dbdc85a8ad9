"""The memory that a client in training takes on a device, as its compiler says.

No formula knows what a compiler keeps of activations, in which order it computes and
how it pads arrays, so one step is compiled and asked: of one client on a CPU, and of
several at once elsewhere, for one alone may fit into a memory of the chip's own that is
not counted. That takes seconds, and the round's own program has a cache.
`benchmarks/memory_model.py` holds the sum of `round_bytes` against whole rounds.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from fedsparsify_jax import trees
from fedsparsify_jax.data import Dataset
from fedsparsify_jax.method import Batch
from fedsparsify_jax.models import Model
from fedsparsify_jax.privacy.private_steps import ExamplePrivacy, private_steps
from fedsparsify_jax.runner.options import privacy
from fedsparsify_jax.training.local import StepLoss, batch_loss
from fedsparsify_jax.training.losses import TASKS
from fedsparsify_jax.types import Key, PyTree, Variables

SERVER_COPIES = 3
"""Models that a device holds beside those of clients in training: the sums, what they
are merged and purged to, and the global one."""

_TOGETHER = 8
"""Clients in the step that is compiled for an accelerator."""
_DATA_COPIES = {"tpu": 3}
"""Of the examples of clients in training; one where nothing else is known. A TPU's
compiler has each chunk of clients, an epoch's order and another layout of it."""


def client_bytes(
    options: Mapping[str, Any],
    model: Model,
    dataset: Dataset,
    longest: int,
    device: Any,
) -> int:
    """Returns the bytes that one client in training takes on a device.

    They are those of a step of SGD, with weights, momentum and batch, and of copies of
    the client's examples; of DP-SGD, with gradients of single examples.

    Args:
      options: all options of a run, resolved; the batch no longer than a client.
      model: what is trained.
      dataset: on what.
      longest: examples of the largest client.
      device: that it is compiled for, also one of a topology that is not there.
    """
    sample = dataset.train.x
    batch_size = min(options["batch_size"], longest)
    loss = batch_loss(model.apply, TASKS[dataset.task].loss_fn)
    with_momentum = bool(options["momentum"])
    secret = privacy.mechanism(options)

    def used(batch: Batch, key: Key) -> StepLoss:
        if not isinstance(secret, ExamplePrivacy):
            return StepLoss(loss, batch, lambda: None)
        size = jnp.int32(batch_size)
        return private_steps(secret)(loss, batch, size, key, lambda tree: tree)

    def step(variables: Variables, velocity: PyTree, batch: Batch, key: Key) -> Any:
        others = {name: tree for name, tree in variables.items() if name != "params"}

        def objective(params: PyTree) -> Any:
            step = used(batch, jax.random.clone(key))
            return step.loss(others | {"params": params}, step.batch, key)

        gradients, changed = jax.grad(objective, has_aux=True)(variables["params"])
        if with_momentum:
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradients)
            gradients = velocity
        params = jax.tree.map(lambda w, g: w - 0.1 * g, variables["params"], gradients)
        made = jnp.any(batch.valid)
        new = variables | changed | {"params": params}
        return trees.where(made, new, variables), velocity

    variables = jax.eval_shape(model.init, jax.random.key(0))
    batch = jax.eval_shape(
        lambda: Batch(
            x=jnp.zeros((batch_size, *sample.shape[1:]), sample.dtype),
            y=jnp.zeros((batch_size,), dataset.train.y.dtype),
            valid=jnp.zeros((batch_size,), bool),
        )
    )
    velocity = variables["params"] if with_momentum else ()
    key = jax.eval_shape(lambda: jax.random.key(0))
    of_step = _bytes_of_step(step, (variables, velocity, batch, key), device)
    example = sample.dtype.itemsize * math.prod(sample.shape[1:])
    return of_step + _DATA_COPIES.get(device.platform, 1) * longest * example


def _bytes_of_step(step: Callable[..., Any], shapes: PyTree, device: Any) -> int:
    """Compiles a client's step for a device; returns what a client takes there."""
    place = SingleDeviceSharding(device)
    alone = device.platform == "cpu"
    batch = () if alone else (_TOGETHER,)

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(batch + leaf.shape, leaf.dtype, sharding=place)

    # As in a loop over steps, new weights may take the place of the old.
    program = jax.jit(step if alone else jax.vmap(step), donate_argnums=(0, 1))
    lowered = program.lower(*jax.tree.map(placed, shapes))
    said: Any = lowered.compile().memory_analysis()
    together = (
        said.argument_size_in_bytes
        + said.output_size_in_bytes
        - said.alias_size_in_bytes
        + said.temp_size_in_bytes
    )
    return int(together) // math.prod(batch)


def round_bytes(client: int, model_bytes: int, held: int, at_once: int) -> int:
    """Predicts the most bytes that a device holds in a round.

    Args:
      client: of `client_bytes`.
      model_bytes: of the model's variables.
      held: bytes of the data and the state, which stay on the device.
      at_once: clients that train at once.

    >>> round_bytes(client=100, model_bytes=40, held=1000, at_once=2)
    1320
    """
    return held + SERVER_COPIES * model_bytes + at_once * client

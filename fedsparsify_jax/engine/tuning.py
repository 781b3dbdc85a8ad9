"""The clients' local training as the engine's options have it."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import jax
import optax

from fedsparsify_jax.engine.options import Options
from fedsparsify_jax.engine.records import ClientTask
from fedsparsify_jax.method import Context, Method
from fedsparsify_jax.privacy.private_steps import ExamplePrivacy, private_steps
from fedsparsify_jax.training.compact import wrapper as compact
from fedsparsify_jax.training.local import (
    StepLossFn,
    Trained,
    TrainFn,
    batch_loss,
    continued,
    local_training,
)
from fedsparsify_jax.training.optimizers import clipping, for_clients, lars
from fedsparsify_jax.types import ApplyFn, Key, Masks, PyTree, Variables


class FirstFn(Protocol):
    """A client's training from the model that it starts from."""

    def __call__(
        self,
        key: Key,
        start: Variables,
        masks: Masks,
        task: ClientTask,
        context: Context,
    ) -> Trained: ...


class AgainFn(Protocol):
    """A client's model under its new masks, and its fine-tuning if there is any."""

    def __call__(
        self,
        key: Key | None,
        trained: Trained,
        masks: Masks,
        task: ClientTask,
        context: Context,
    ) -> Trained: ...


class Tuning(NamedTuple):
    """Local training as the engine's options have it."""

    first: FirstFn
    again: AgainFn
    new_optimizer: Callable[[Variables], PyTree]
    keeps_optimizer: bool
    fine_tunes: bool  # whether `again` trains


def _effort(task: ClientTask) -> jax.Array | None:
    """Returns the share of its steps that a client makes; None for all."""
    return None if task.member.fault is None else task.member.fault.effort


def optimizer_of(o: Options) -> optax.GradientTransformation:
    """Returns the clients' optimizer: the given one, LARS or SGD.

    Raises:
      InputError: for an optimizer that is none.
    """
    chosen = _chosen(o)
    return chosen if o.gradient_clip is None else clipping(o.gradient_clip, chosen)


def _chosen(o: Options) -> optax.GradientTransformation:
    if o.optimizer == "lars":
        return lars(
            o.learning_rate,
            weight_decay=0.0 if o.weight_decay is None else o.weight_decay,
            trust_coefficient=(
                0.001 if o.trust_coefficient is None else o.trust_coefficient
            ),
            momentum=0.0 if o.momentum is None else o.momentum,
            nesterov=o.nesterov,
        )
    if o.optimizer is not None:
        return for_clients(o.optimizer)
    # A momentum of exactly 0 would only carry a useless buffer.
    momentum = o.momentum
    if isinstance(momentum, int | float) and momentum == 0:
        momentum = None
    return optax.sgd(o.learning_rate, momentum=momentum, nesterov=o.nesterov)


def _check_epochs(method: Method, o: Options) -> None:
    if method.fine_tune_epochs < 0:
        raise ValueError(
            f"fine_tune_epochs is {method.fine_tune_epochs}: it must be at least 0"
        )
    if o.local_epochs + method.fine_tune_epochs <= 0:
        raise ValueError(f"local_epochs is {o.local_epochs}: it must be above 0")
    if o.local_steps is not None and method.fine_tune_epochs:
        raise ValueError(
            "local_steps does not go with epochs after a client's own purge or change "
            "of masks: use local_epochs"
        )


def _check_form(method: Method, o: Options) -> None:
    if isinstance(o.privacy, ExamplePrivacy):
        raise compact.UnsuitableError("examples' gradients are clipped in full shapes")
    compact.check(
        method,
        optimizer=o.optimizer is not None,
        keeps_optimizer=o.optimizer_state == "kept",
        fine_tunes=method.fine_tune_epochs > 0,
    )


def _step_loss(o: Options) -> StepLossFn | None:
    """Returns what replaces the loss of every step, if the options ask for that."""
    return private_steps(o.privacy) if isinstance(o.privacy, ExamplePrivacy) else None


def tuning_of(apply_fn: ApplyFn, method: Method, o: Options) -> Tuning:
    """Builds the clients' local training.

    Raises:
      ValueError: for a negative number of epochs.
    """
    _check_epochs(method, o)
    transform = optimizer_of(o)

    def training(epochs: float, apply_fn: ApplyFn = apply_fn) -> TrainFn:
        return local_training(
            batch_loss(apply_fn, o.loss_fn),
            transform,
            method,
            epochs=epochs,
            batch_size=o.batch_size,
            steps=o.local_steps,
            step_loss=_step_loss(o),
        )

    def new_optimizer(variables: Variables) -> optax.OptState:
        return transform.init(variables["params"])

    keeps_optimizer = o.optimizer_state == "kept"
    more = method.fine_tune_epochs
    train = training(o.local_epochs)
    if o.compact_form is not None:
        _check_form(method, o)
        build = partial(training, o.local_epochs)
        train = compact.compact_or_full(
            train, o.compact_form, method, build, new_optimizer
        )
    fine_tune = training(more) if more else None

    def first(
        key: Key, start: Variables, masks: Masks, task: ClientTask, context: Context
    ) -> Trained:
        state = task.optimizer if keeps_optimizer else new_optimizer(start)
        data, effort = task.client.data, _effort(task)
        return train(key, start, masks, state, data, context, effort=effort)

    def again(
        key: Key | None,
        trained: Trained,
        masks: Masks,
        task: ClientTask,
        context: Context,
    ) -> Trained:
        variables = method.project(masks, trained.variables)
        if fine_tune is None or key is None:
            return trained._replace(variables=variables)
        second = fine_tune(
            key,
            variables,
            masks,
            trained.optimizer,
            task.client.data,
            context,
            trained.memory,
            _effort(task),
        )
        return continued(trained, second, (o.local_epochs, more))

    return Tuning(
        first=first,
        again=again,
        new_optimizer=new_optimizer,
        keeps_optimizer=keeps_optimizer,
        fine_tunes=fine_tune is not None,
    )

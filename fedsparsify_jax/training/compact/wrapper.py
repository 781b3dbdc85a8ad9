"""Local training on a compact model, with the results of the full one.

Where masks are the same for all clients of a round, a network with most of its weights
pruned may be trained as a smaller one: the weights are gathered into small arrays, the
client trains those, and the result is written back to full shapes before anything else
sees it. `training.compact` makes such forms; the engine only knows the protocol here.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax

from fedsparsify_jax import masks, trees
from fedsparsify_jax.client_map import ClientFn, ClientMap, SumFn, no_sums
from fedsparsify_jax.method import Context, Method, no_projection
from fedsparsify_jax.training.local import Trained, TrainFn
from fedsparsify_jax.types import ApplyFn, ClientData, Key, Masks, PyTree, Variables


class Form(Protocol):
    """A compact form of a model; its shapes are static, what they hold is traced."""

    def index(self, masks: Masks) -> Any:
        """Returns, once a round, where the entries of the compact model are.

        The result has a field ``fits``, a bool scalar: whether the round's masks fit
        the compact shapes. If they do not, clients train the full model.
        """

    def compact(self, index: Any, variables: PyTree) -> PyTree:
        """Returns variables or masks in compact shapes; padding is zero or False."""

    def apply(self, index: Any) -> ApplyFn:
        """Returns the forward pass on compact variables."""

    def expand(self, index: Any, small: Variables, variables: Variables) -> Variables:
        """Writes compact variables into full ones."""


class UnsuitableError(ValueError):
    """A method that needs the full shapes while clients train."""


def check(
    method: Method, *, optimizer: bool, keeps_optimizer: bool, fine_tunes: bool
) -> None:
    """Checks that the method's local training is the same on a compact model.

    Raises:
      UnsuitableError: one line that says what needs the full shapes.
    """
    plain = Method(aggregate=method.aggregate)
    for name in ("receive", "objective", "gradient"):
        if getattr(method, name) is not getattr(plain, name):
            raise UnsuitableError(f"the method's hook {name!r} sees the full shapes")
    if method.project not in (masks.apply, no_projection):
        raise UnsuitableError("the method's hook 'project' sees the full shapes")
    if optimizer:
        raise UnsuitableError("an optimizer of one's own may look at all gradients")
    if keeps_optimizer:
        raise UnsuitableError("optimizer states are kept between rounds")
    if fine_tunes:
        raise UnsuitableError("clients fine-tune under masks of their own")


def indexed(client_map: ClientMap, form: Form) -> ClientMap:
    """Returns a `ClientMap` whose clients see the index in ``context.compact``."""

    def run(
        fn: ClientFn, shared: Context, stacked: PyTree, summed: SumFn = no_sums
    ) -> tuple[PyTree, Any]:
        context = shared._replace(compact=form.index(shared.masks))
        return client_map(fn, context, stacked, summed)

    return run


def compact_or_full(
    full: TrainFn,
    form: Form,
    method: Method,
    build: Callable[[ApplyFn], TrainFn],
    new_optimizer: Callable[[Variables], PyTree],
) -> TrainFn:
    """Trains the compact model where the round's masks fit it, the full one otherwise.

    Args:
      full: the training of the model as it is.
      form: its compact form.
      method: the hooks, which `check` accepts.
      build: a forward pass to the training with it.
      new_optimizer: variables to the state that an optimizer starts from.

    Returns:
      A training that reads the index of the round from ``context.compact``. The state
      of the optimizer comes back as it went in, for it is not kept.
    """

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
        index = context.compact
        numbers, with_keys = trees.hide_keys(key)

        def on_compact() -> Trained:
            start = method.project(masks, variables)
            small = form.compact(index, start)
            trained = build(form.apply(index))(
                with_keys(numbers),
                small,
                form.compact(index, masks),
                new_optimizer(small),
                data,
                context,
                effort=effort,
            )
            grown = form.expand(index, trained.variables, start)
            return trained._replace(variables=grown, optimizer=optimizer_state)

        def in_full() -> Trained:
            trained = full(
                with_keys(numbers),
                variables,
                masks,
                optimizer_state,
                data,
                context,
                memory,
                effort,
            )
            return trained._replace(optimizer=optimizer_state)

        return jax.lax.cond(index.fits, on_compact, in_full)

    return train

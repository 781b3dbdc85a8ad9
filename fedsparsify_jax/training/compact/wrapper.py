"""Local training on a smaller form of the model, with the results of the full one.

Where masks are the same for all clients of a round, a network with most of its weights
pruned may be trained as a smaller one: the weights are gathered into small arrays, the
client trains those, and the result is written back to full shapes before anything else
sees it. `sparse_training` makes such forms; the engine only knows the protocol here.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax

from fedsparsify_jax import masks
from fedsparsify_jax.client_map import ClientFn, CohortMap
from fedsparsify_jax.method import Context, Method, no_projection
from fedsparsify_jax.training.local import Trained, TrainFn
from fedsparsify_jax.types import ApplyFn, ClientData, Key, Masks, PyTree, Variables


class SmallForm(Protocol):
    """A smaller form of a model; its shapes are static, what they hold is traced."""

    def index(self, masks: Masks) -> Any:
        """Once a round: where everything of the small form is, for the round's masks.

        The result has a field ``fits``, a bool scalar: whether these masks fit the
        small shapes. If they do not, clients train the full form.
        """

    def shrink(self, index: Any, variables: PyTree) -> PyTree:
        """Variables or masks in small shapes; what is only padding is zero or False."""

    def apply(self, index: Any) -> ApplyFn:
        """The forward pass on small variables."""

    def expand(self, index: Any, small: Variables, variables: Variables) -> Variables:
        """Full variables with what the small ones hold written into them."""


class UnsuitableError(ValueError):
    """A method that needs the full shapes while clients train."""


def check(
    method: Method, *, optimizer: bool, keeps_optimizer: bool, fine_tunes: bool
) -> None:
    """Is the method's local training the same thing on a smaller form?

    Raises:
      UnsuitableError: one line that says what needs the full shapes.
    """
    plain = Method(aggregate=method.aggregate)
    for name in ("receive", "objective", "memory", "gradient"):
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


def indexed(cohort: CohortMap, form: SmallForm) -> CohortMap:
    """A cohort strategy whose clients find the round's index in ``context.small``."""

    def run(
        fn: ClientFn, shared: Context, stacked: PyTree, *more: Any, **named: Any
    ) -> Any:
        context = shared._replace(small=form.index(shared.masks))
        return cohort(fn, context, stacked, *more, **named)

    return run


def small_or_full(
    full: TrainFn,
    form: SmallForm,
    method: Method,
    build: Callable[[ApplyFn], TrainFn],
    new_optimizer: Callable[[Variables], PyTree],
) -> TrainFn:
    """Trains on the small form where the round's masks fit it, in full otherwise.

    Args:
      full: the training of the model as it is.
      form: its small form.
      method: the hooks, which `check` accepts.
      build: a forward pass to the training with it.
      new_optimizer: variables to the state that an optimizer starts from.

    Returns:
      A training that reads the index of the round from ``context.small``. The state of
      the optimizer comes back as it went in, for nobody reads it.
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
        index = context.small
        # As plain numbers: see the setup in `rounds`.
        bits, impl = jax.random.key_data(key), jax.random.key_impl(key)

        def on_small_form() -> Trained:
            start = method.project(masks, variables)
            small = form.shrink(index, start)
            trained = build(form.apply(index))(
                jax.random.wrap_key_data(bits, impl=impl),
                small,
                form.shrink(index, masks),
                new_optimizer(small),
                data,
                context,
                effort=effort,
            )
            grown = form.expand(index, trained.variables, start)
            return trained._replace(variables=grown, optimizer=optimizer_state)

        def in_full() -> Trained:
            trained = full(
                jax.random.wrap_key_data(bits, impl=impl),
                variables,
                masks,
                optimizer_state,
                data,
                context,
                memory,
                effort,
            )
            return trained._replace(optimizer=optimizer_state)

        return jax.lax.cond(index.fits, on_small_form, in_full)

    return train

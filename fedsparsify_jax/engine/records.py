"""What the engine hands around inside a round, and how a round opens."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedsparsify_jax.engine.wrappers.faults import Struck
from fedsparsify_jax.method import Client, Context, Method, Upload
from fedsparsify_jax.types import (
    ClientsState,
    Key,
    Masks,
    PyTree,
    Scouts,
    State,
    Variables,
)

# Far from the small numbers that `split` folds in.
_FAULTS = 0xFA17ED


class Task(NamedTuple):
    """What one client needs for a round; stacked ``[K, ...]`` for the cohort."""

    key: Key
    client: Client
    optimizer: PyTree
    share: jax.Array  # its weight in means
    struck: Struck | None  # what goes wrong, where anything may


class Keys(NamedTuple):
    """What a round's key is split into."""

    setup: Key
    cohort: Key
    local: Key
    server: Key
    faults: Key

    @classmethod
    def of(cls, key: Key) -> "Keys":
        """Faults are drawn apart, so that they leave all other draws as they are."""
        faults = jax.random.fold_in(jax.random.clone(key), _FAULTS)
        setup, cohort, local, server = jax.random.split(key, 4)
        return cls(setup, cohort, local, server, faults)


class Done(NamedTuple):
    """What one client's round leaves; stacked ``[K, ...]`` for the cohort."""

    upload: Upload
    state: ClientsState
    loss: jax.Array
    bytes_up: jax.Array
    sound: jax.Array  # bool: whether every number of the upload is finite


def sgd(
    learning_rate: ArrayLike, momentum: ArrayLike | None, nesterov: bool
) -> optax.GradientTransformation:
    """The clients' optimizer, where no other is given."""
    # A momentum of exactly 0 would only carry a useless buffer.
    if isinstance(momentum, int | float) and momentum == 0:
        momentum = None
    return optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov)


def opening(
    method: Method, key: Key, state: State, meet: Callable[[Key], Scouts]
) -> Context:
    """The round's context, after the method's setup if it is the first round."""
    t = state.round + 1
    target = jnp.asarray(method.schedule(t), jnp.float32)
    context = Context(
        t, target, state.variables, state.masks, state.server, state.clients.extra
    )
    if method.setup is None:
        return context
    setup, impl = method.setup, jax.random.key_impl(key)
    # The key enters as plain numbers: under vmap the branches become a select
    # between copies of it, which JAX's reuse checker takes for a second use.
    bits = jax.random.key_data(key)

    def first() -> tuple[Variables, Masks]:
        ids, data = meet(jax.random.wrap_key_data(bits, impl=impl))
        own = jax.random.wrap_key_data(bits, impl=impl)
        return setup(own, context._replace(scouts=ids), data)

    variables, masks = jax.lax.cond(
        t == 1, first, lambda: (context.variables, context.masks)
    )
    return context._replace(variables=variables, masks=masks)

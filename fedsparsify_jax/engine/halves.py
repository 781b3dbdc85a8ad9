"""The two halves of an algorithm's round, for clients and a server apart.

`engine` puts them into one function that is jitted as a whole. Here they are for those
who have the clients' data on other machines: every function is pure and may be jitted,
and a round through them gives the bits of ``step`` with ``client_map.chunked(1)``.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from fedsparsify_jax.aggregation.means import shares
from fedsparsify_jax.engine.records import (
    ClientHalf,
    ClientResult,
    Members,
    RoundKeys,
    open_round,
    sum_uploads,
    task_of,
)
from fedsparsify_jax.engine.round import server_half
from fedsparsify_jax.engine.sampling import client_keys
from fedsparsify_jax.engine.wrappers.faults import is_finite, left_out
from fedsparsify_jax.engine.wrappers.transport import rounded
from fedsparsify_jax.method import Context, Method
from fedsparsify_jax.types import (
    ClientData,
    ClientsState,
    Halves,
    Key,
    RoundInfo,
    State,
    Variables,
    WireValues,
)


def halves_of(
    method: Method,
    clients: ClientHalf,
    keep: Callable[[Variables], ClientsState],
    values: WireValues,
) -> Halves:
    """Builds the halves of a round.

    Args:
      method: the hooks.
      clients: the clients' half, with all that happens to an upload on its way.
      keep: variables to what a client keeps before its first round.
      values: dtype in which models travel.
    """
    server = server_half(method)

    def open_(key: Key, state: State, nobody: ClientData) -> Context:
        del key, nobody  # which only what precedes round 1 looks at
        sent = rounded(state.variables, values)
        return open_round(method, state._replace(variables=sent))

    def client(
        key: Key,
        context: Context,
        number: jax.Array,
        data: ClientData,
        kept: ClientsState,
    ) -> ClientResult:
        own = client_keys(_keys(key).local, number[None])[0]
        size = data.sizes.astype(jnp.float32)
        member = Members(ids=number, sizes=size, shares=jnp.ones_like(size), fault=None)
        return clients(context, task_of(own, data, kept, member))

    def merge(
        key: Key,
        state: State,
        context: Context,
        ids: jax.Array,
        sizes: jax.Array,
        arrived: jax.Array,
        results: ClientResult,
    ) -> tuple[State, RoundInfo]:
        members = present(ids, sizes, arrived)
        # Nobody's word is taken for it that an upload is whole.
        sent = (results.upload.variables, results.upload.extra, results.loss)
        results = results._replace(finite=jax.vmap(is_finite)(sent))
        sums, results = sum_uploads(method.aggregate, context, members, results)
        return server(_keys(key).server, state, context, members, sums, results)

    return Halves(open=open_, client=client, merge=merge, keep=keep)


def _keys(key: Key) -> RoundKeys:
    """Splits a round's key without consuming it: the other half needs it, too."""
    return RoundKeys.of(jax.random.clone(key))


def present(ids: jax.Array, sizes: jax.Array, arrived: jax.Array) -> Members:
    """Returns the clients of a round; those that sent nothing count nothing.

    >>> sizes = jnp.array([3, 1, 4])
    >>> present(jnp.arange(3), sizes, jnp.array([True, True, False])).shares.tolist()
    [0.75, 0.25, 0.0]
    """
    counted = jnp.where(arrived, sizes.astype(jnp.float32), 0.0)
    fault = left_out(None, arrived)
    return Members(ids=ids, sizes=counted, shares=shares(counted), fault=fault)


def no_examples(data: ClientData) -> ClientData:
    """Returns the data of no clients, of the shapes of one client's.

    >>> no_examples(ClientData(jnp.ones((5, 8)), jnp.ones(5), jnp.int32(5))).x.shape
    (0, 5, 8)
    """
    empty: ClientData = jax.tree.map(
        lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), data
    )
    return empty


def fields_read(halves: Halves, state: State, data: ClientData) -> frozenset[str]:
    """Returns the fields of the context that the clients' half depends on.

    It is traced for that. A field that is not among them need not be sent, and one that
    a client cannot be sent, the state of all clients, shows a method that is none for
    clients apart.

    Args:
      halves: of an algorithm.
      state: before the first round.
      data: of one client; shapes and dtypes are enough.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> from fedsparsify_jax import algorithms, trees
      >>> algorithm = algorithms.fedsparsify_global(model.apply, rounds=50)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> sorted(fields_read(algorithm.halves, state, trees.take(clients, 0)))
      ['masks', 'variables']
    """
    key, number = jax.random.key(0), jnp.int32(0)
    nobody = jax.eval_shape(no_examples, data)
    context = jax.eval_shape(halves.open, key, state, nobody)
    kept = jax.eval_shape(halves.keep, state.variables)
    traced = jax.make_jaxpr(halves.client)(key, context, number, data, kept).jaxpr
    _, used = dce_jaxpr(traced, [True] * len(traced.outvars))
    before = len(jax.tree.leaves(key))
    names = [
        field
        for field, part in context._asdict().items()
        for _ in jax.tree.leaves(part)
    ]
    return frozenset(
        name for name, is_used in zip(names, used[before:], strict=False) if is_used
    )

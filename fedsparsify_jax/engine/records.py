"""The records that the engine passes around inside a round, and how they are filled."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.aggregation.means import shares
from fedsparsify_jax.client_map import chunked
from fedsparsify_jax.compressors import Change
from fedsparsify_jax.engine.sampling import client_keys
from fedsparsify_jax.engine.wrappers.faults import (
    ClientFaults,
    Faults,
    corrupted,
    is_finite,
    left_out,
    sample_faults,
)
from fedsparsify_jax.method import Aggregate, Client, Context, Method, Upload, Uploads
from fedsparsify_jax.metrics.communication import kept_bytes, nonzero_bytes
from fedsparsify_jax.training.local import Trained
from fedsparsify_jax.types import (
    ClientData,
    ClientsState,
    Cohort,
    Key,
    Masks,
    PyTree,
    RoundInfo,
    RoundMessages,
    State,
    Variables,
)

# Far from the small numbers that `split` folds in.
_FAULTS = 0xFA17ED


class RoundKeys(NamedTuple):
    """The keys of the parts of a round."""

    setup: Key
    cohort: Key
    local: Key
    server: Key
    faults: Key

    @classmethod
    def of(cls, key: Key) -> "RoundKeys":
        """Splits a round's key; faults have one apart, so no other draw changes."""
        faults = jax.random.fold_in(jax.random.clone(key), _FAULTS)
        setup, cohort, local, server = jax.random.split(key, 4)
        return cls(
            setup=setup, cohort=cohort, local=local, server=server, faults=faults
        )


class ClientKeys(NamedTuple):
    """The keys of the parts of a client's round."""

    train: Key
    prune: Key
    upload: Key
    again: Key | None

    @classmethod
    def of(cls, key: Key, fine_tunes: bool) -> "ClientKeys":
        """Splits a client's key, into one part more if clients fine-tune."""
        train, prune, upload, *again = jax.random.split(key, 4 if fine_tunes else 3)
        return cls(
            train=train, prune=prune, upload=upload, again=again[0] if again else None
        )


class Members(NamedTuple):
    """The clients of a round, as the server knows them."""

    ids: jax.Array  # [K] int32
    sizes: jax.Array  # [K] float32: numbers of examples; 0 where one drops out
    shares: jax.Array  # [K] float32: of the examples of all that participate
    fault: ClientFaults | None  # [K], where anything may go wrong
    joined: jax.Array | None = None  # bool [K], of a Poisson sample

    @property
    def participating(self) -> jax.Array:
        """Returns bool ``[K]``: the clients that do not drop out."""
        if self.fault is None:
            return jnp.ones(self.ids.shape, bool)
        return self.fault.participating


class ClientTask(NamedTuple):
    """All that one client is given for a round; stacked ``[K, ...]`` for the cohort."""

    key: Key
    client: Client
    optimizer: PyTree  # its state, () if it starts anew in every round
    member: Members  # without the leading axis
    residual: PyTree = ()  # what compression has left out so far


class WithResidual(NamedTuple):
    """``ClientsState.extra`` of clients that keep what compression leaves out.

    Without error feedback it is the method's state alone, so that the states of such
    runs, and their checkpoints, have nothing of it.
    """

    method: PyTree  # what the method itself keeps for a client
    residual: PyTree  # what compression has left out so far


def without_residual(extra: PyTree) -> PyTree:
    """Returns what the method keeps for clients."""
    return extra.method if isinstance(extra, WithResidual) else extra


class ClientResult(NamedTuple):
    """All that comes back from one client; stacked ``[K, ...]`` for the cohort."""

    upload: Upload  # empty once its sums are added up
    state: ClientsState  # kept for this client
    loss: jax.Array  # float32: mean training loss
    bytes_up: jax.Array  # uint32: of the upload
    finite: jax.Array  # bool: whether the loss and every number of the upload are
    change: Change | tuple[()] = ()  # that is sent, if uploads are compressed
    bytes_down: jax.Array | tuple[()] = ()  # uint32, of `Method.received_bytes`


ClientHalf = Callable[[Context, ClientTask], ClientResult]
"""One client's part of a round: ``(context, task) -> result``, see `round`."""


def open_round(method: Method, state: State) -> Context:
    """Returns the round as the server announces it: t, s_t, w and m."""
    t = state.round + 1
    return Context(
        round=t,
        sparsity=jnp.asarray(method.schedule(t), jnp.float32),
        variables=state.variables,
        masks=state.masks,
        server=state.server,
        clients=without_residual(state.clients.extra),
    )


def members_of(
    cohort: Cohort, context: Context, faults: Faults | None, key: Key
) -> Members:
    """Returns the clients of a round and what goes wrong with each of them."""
    sizes = cohort.data.sizes.astype(jnp.float32)
    ids = cohort.ids
    if ids is None:
        ids = jnp.arange(len(sizes), dtype=jnp.int32)
    fault = None
    if faults is not None:
        fault = sample_faults(faults, key, context.round, ids)
    if cohort.joined is not None:
        fault = left_out(fault, cohort.joined)
    if fault is not None:
        sizes = jnp.where(fault.participating, sizes, 0.0)
    return Members(
        ids=ids, sizes=sizes, shares=shares(sizes), fault=fault, joined=cohort.joined
    )


def client_tasks(
    key: Key, state: State, cohort: Cohort, members: Members
) -> ClientTask:
    """Returns the tasks of a cohort, ``[K, ...]``; ``key`` is `RoundKeys.local`."""
    keys = client_keys(key, members.ids)
    return task_of(keys, cohort.data, states_of(state, cohort.ids), members)


def task_of(
    key: Key, data: ClientData, kept: ClientsState, member: Members
) -> ClientTask:
    """Returns the task of one client, or of a cohort, ``[K, ...]``.

    Args:
      key: the client's own.
      data: its examples.
      kept: what it keeps between rounds.
      member: its number and size.
    """
    residual = kept.extra.residual if isinstance(kept.extra, WithResidual) else ()
    return ClientTask(
        key=key,
        client=Client(id=member.ids, data=data, state=without_residual(kept.extra)),
        optimizer=kept.optimizer,
        member=member,
        residual=residual,
    )


def model_bytes(method: Method, variables: Variables, masks: Masks) -> jax.Array:
    """Counts the bytes of a model by the method's rule: a uint32 scalar."""
    return kept_bytes(masks) if method.masks_travel else nonzero_bytes(variables)


def extra_bytes(upload: Upload) -> jax.Array:
    """Adds up the bytes of what else an upload has: uint32."""
    extras = [e.astype(jnp.uint32) for e in jax.tree.leaves(upload.extra_bytes)]
    return sum(extras, start=jnp.uint32(0))


def result_of(
    method: Method,
    trained: Trained,
    upload: Upload,
    kept: ClientsState,
    task: ClientTask,
) -> ClientResult:
    """Returns what comes back from a client, its bytes counted, its faults in it.

    Args:
      method: for its rule of counting bytes.
      trained: its last training.
      upload: the message.
      kept: what is kept for the client.
      task: of the client.
    """
    bytes_up = model_bytes(method, upload.variables, upload.masks)
    bytes_up += extra_bytes(upload)
    if task.member.fault is not None:
        upload = corrupted(upload, task.member.fault.corruption)
    return ClientResult(
        upload=upload,
        state=kept,
        loss=trained.loss,
        bytes_up=bytes_up,
        finite=is_finite((upload.variables, upload.extra, trained.loss)),
    )


def states_of(state: State, ids: jax.Array | None) -> ClientsState:
    """Returns what is kept for clients ``[K]``; None for all of them, in order."""
    return state.clients if ids is None else trees.take(state.clients, ids)


def keep_states(
    old: State,
    new: State,
    ids: jax.Array | None,
    changed: jax.Array,
    kept: ClientsState,
) -> State:
    """Writes what the changed clients ``[K]`` keep into the new state."""
    kept = trees.where_each(changed, kept, states_of(old, ids))
    if ids is not None:
        kept = trees.put(old.clients, ids, kept)
    return new._replace(clients=kept)


def uploads_of(results: ClientResult, members: Members, valid: jax.Array) -> Uploads:
    """Returns the uploads of a part of the cohort; those not valid count nothing.

    Args:
      results: of the part, ``[k, ...]``.
      members: its clients.
      valid: bool ``[k]``.
    """
    valid = valid & results.finite
    return Uploads(
        variables=results.upload.variables,
        masks=results.upload.masks,
        extra=results.upload.extra,
        ids=members.ids,
        sizes=jnp.where(valid, members.sizes, 0.0),
        shares=jnp.where(valid, members.shares, 0.0),
    )


def sum_part(
    aggregate: Aggregate,
    context: Context,
    members: Members,
    results: ClientResult,
    present: jax.Array,
) -> tuple[PyTree, ClientResult]:
    """Adds up what the merge needs of some clients, and drops what it does not need.

    Args:
      aggregate: the method's merge.
      context: of the round.
      members: some of its clients, ``[k]``.
      results: theirs, ``[k, ...]``.
      present: bool ``[k]``, False for padding.

    Returns:
      The sums, which add up over the parts of a cohort, and the results without their
      uploads, unless the merge stacks these.
    """
    sums = aggregate.sums(uploads_of(results, members, present), context)
    results = results._replace(change=())
    if not aggregate.stacks:
        results = results._replace(upload=Upload({}, {}))
    return sums, results


def sum_uploads(
    aggregate: Aggregate, context: Context, members: Members, results: ClientResult
) -> tuple[PyTree, ClientResult]:
    """Adds up the uploads of a cohort that have all arrived, one after another.

    The order, and with it every bit, is that of a simulated round whose ``client_map``
    is ``chunked(1)``, provided that both are jitted.

    Args:
      aggregate: the method's merge.
      context: of the round.
      members: its clients, ``[K]``.
      results: theirs, ``[K, ...]``.

    Returns:
      The sums and results for `round.server_half`.
    """

    def part(
        context: Context, arrived: Any, results: ClientResult, present: jax.Array
    ) -> tuple[PyTree, ClientResult]:
        return sum_part(aggregate, context, arrived[0], results, present)

    return chunked(1)(
        lambda context, arrived: arrived[1], context, (members, results), part
    )


def messages_of(
    context: Context, members: Members, results: ClientResult
) -> RoundMessages:
    """Returns all that was sent in a round.

    Args:
      context: what every client got.
      members: the cohort.
      results: theirs, with their uploads.
    """
    upload = results.upload
    extra_up = jnp.broadcast_to(extra_bytes(upload), members.ids.shape)
    return RoundMessages(
        variables=context.variables,
        masks=context.masks,
        uploads=upload.variables,
        upload_masks=upload.masks,
        extra_up=extra_up,
        arrived=members.participating,
        changes=results.change,
    )


def _count(chosen: jax.Array) -> jax.Array:
    return jnp.sum(chosen, dtype=jnp.int32)


def report(
    method: Method,
    context: Context,
    new: State,
    members: Members,
    uploads: Uploads,
    results: ClientResult,
) -> RoundInfo:
    """Returns the report of a round."""
    sizes, participating = uploads.sizes, members.participating
    total = jnp.maximum(jnp.sum(sizes), 1.0)
    loss = jnp.sum(sizes * jnp.where(sizes > 0, results.loss, 0.0)) / total
    if isinstance(results.bytes_down, tuple):
        sent = method.download(new.variables, new.masks, context)
        bytes_down = model_bytes(method, sent, new.masks)
    else:
        bytes_down = results.bytes_down
    stragglers = ~participating if members.fault is None else members.fault.straggling
    joined = members.joined
    if joined is None:
        joined = jnp.ones(members.ids.shape, bool)
    return RoundInfo(
        round=context.round,
        loss=jnp.where(jnp.any(sizes > 0), loss, jnp.nan),
        target_sparsity=context.sparsity,
        sparsity=mask_algebra.sparsity(new.masks, method.prunable),
        kept=mask_algebra.kept(new.masks),
        bytes_up=jnp.where(participating, results.bytes_up, jnp.uint32(0)),
        bytes_down=jnp.where(joined, bytes_down, jnp.uint32(0)),
        cohort=jnp.where(joined, members.ids, -1),
        merged=_count(sizes > 0),
        dropped=_count(joined & ~participating),
        stragglers=_count(stragglers),
        rejected=_count(participating & ~results.finite),
        setup_up=jnp.zeros(0, jnp.uint32),
        setup_down=jnp.zeros(0, jnp.uint32),
    )

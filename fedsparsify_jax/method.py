"""The hooks that make one federated method differ from another.

A `Method` is a record of pure functions with no-op defaults; the engine in `rounds`
calls them inside the jitted round, in this order:

    setup            round 1 only: initial masks (SNIP, GraSP, SynFlow, ERK, ...)
    receive          what one client starts from (personal masks, sub-models)
    objective        its training loss (proximal term, penalty, reparametrisation,
                     distillation, the sub-model of a growth stage)
    gradient         where and how the gradient is taken (look-ahead, accumulation)
    project          after every step: masks applied to the weights
    client_prune     its masks after training; `fine_tune_epochs` more epochs under them
                     may follow
    upload           what it sends, and what it keeps for its next time
    aggregate        the server's merge of all uploads
    server_update    server-side pruning or regrowth, server optimizers, averages
    download         what of the new model is sent out and counted as bytes

`server_state` and `client_state` declare what a method carries between rounds;
`model` and `finish` say what is evaluated and what happens after the last round.
Everything a hook may look at is in `Context`, `Client` and `Local`. Decisions that
depend on the round alone (``lax.cond``, ``lax.switch`` on ``context.round``) stay real
branches, because the round is never batched over clients.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import schedules
from fedsparsify_jax.types import (
    ClientData,
    Key,
    Masks,
    PyTree,
    Schedule,
    State,
    Variables,
    nothing_more,
)


class Context(NamedTuple):
    """The round as every client and the server see it when it starts."""

    round: jax.Array  # int32 scalar: t, from 1
    sparsity: jax.Array  # float32 scalar: the schedule's target s_t
    variables: Variables  # the global model
    masks: Masks  # its masks
    server: PyTree  # the method's state on the server
    clients: PyTree  # the method's state of all clients, [N, ...]
    scouts: jax.Array | None = None  # [P] int32: in setup, whose data it is given
    small: PyTree = ()  # where the small form of the model is, see `small_form`


class Client(NamedTuple):
    """One client of the cohort."""

    id: jax.Array  # int32 scalar in [0, N)
    data: ClientData  # x [M, ...], y [M], count []
    state: PyTree  # what the method keeps for this client


class Local(NamedTuple):
    """What a client's training left behind."""

    variables: Variables
    masks: Masks
    memory: PyTree  # see Method.memory


class Upload(NamedTuple):
    """What a client sends; the server sees it stacked, ``[K, ...]``."""

    variables: Variables
    masks: Masks
    extra: PyTree = ()  # anything else: gradients, scores, counts


class Uploads(NamedTuple):
    """All that reached the server in a round."""

    variables: Variables  # [K, ...]
    masks: Masks  # [K, ...]
    extra: PyTree  # [K, ...]
    weights: jax.Array  # [K] float32: numbers of examples, 0 if absent
    cohort: jax.Array  # [K] int32: client ids


class Streamed(NamedTuple):
    """An `aggregate` that needs no more of the uploads than sums over the clients.

    The engine then adds them up while the clients train, chunk by chunk and device by
    device, and no more models are held than train at a time. ``sums`` sees weights
    scaled to sum 1 over the cohort; hooks after the merge see `Uploads` with empty
    ``variables``, ``masks`` and ``extra``.
    """

    # (uploads of a part of the cohort, context) -> tree of sums, added over the parts
    sums: Callable[[Uploads, Context], PyTree]
    # (sums over the cohort, context) -> (variables, masks)
    merge: Callable[[PyTree, Context], tuple[Variables, Masks]]

    def __call__(self, uploads: Uploads, context: Context) -> tuple[Variables, Masks]:
        """The merge of uploads that are all there."""
        return self.merge(self.sums(uploads, context), context)


Aggregate = Callable[[Uploads, Context], tuple[Variables, Masks]] | Streamed
"""The server's merge: ``(uploads, context) -> (variables, masks)``."""


class Batch(NamedTuple):
    """One batch of one client; rows that are not valid repeat a real example."""

    x: jax.Array  # [B, ...]
    y: jax.Array  # [B]
    valid: jax.Array  # [B] bool


# (variables, batch, key) -> (mean loss of the valid examples, changed collections)
BatchLoss = Callable[[Variables, Batch, Key], tuple[jax.Array, Variables]]
# variables -> ((loss, changed collections), gradients of the trained collections)
GradFn = Callable[[Variables], tuple[tuple[jax.Array, Variables], Variables]]


def _empty(variables: Variables, masks: Masks) -> PyTree:
    del variables, masks
    return ()


def _no_memory(variables: Variables) -> PyTree:
    del variables
    return ()


def _receive(context: Context, client: Client) -> tuple[Variables, Masks]:
    del client
    return context.variables, context.masks


def _objective(
    loss: BatchLoss, variables: Variables, batch: Batch, key: Key, context: Context
) -> tuple[jax.Array, Variables]:
    del context
    return loss(variables, batch, key)


def _gradient(
    grad_fn: GradFn, variables: Variables, memory: PyTree, context: Context
) -> tuple[tuple[jax.Array, Variables], Variables, PyTree]:
    del context
    value, gradients = grad_fn(variables)
    return value, gradients, memory


def _keep_masks(key: Key, local: Local, context: Context, client: Client) -> Masks:
    del key, context, client
    return local.masks


def _upload(
    key: Key, local: Local, context: Context, client: Client
) -> tuple[Upload, PyTree]:
    del key, context
    return Upload(local.variables, local.masks), client.state


def _server_update(
    key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
) -> tuple[Variables, Masks, PyTree]:
    del key, uploads
    return variables, masks, context.server


def _download(variables: Variables, masks: Masks, context: Context) -> Variables:
    del masks, context
    return variables


def _model(state: State) -> Variables:
    return state.variables


class Method(NamedTuple):
    """What an algorithm is made of; a new one replaces the few hooks it needs.

    Only `aggregate` has no default. Leaves, structures and dtypes of everything that a
    hook passes on must not depend on the round.
    """

    # (uploads, context) -> (variables, masks); `Streamed` where sums are enough
    aggregate: Aggregate
    # t -> target sparsity, handed to the other hooks as context.sparsity
    schedule: Schedule = schedules.constant(0.0)
    # (key, context, clients [P]) -> (variables, masks), before the first round
    setup: Callable[[Key, Context, ClientData], tuple[Variables, Masks]] | None = None
    # (setup's key, count [N]) -> ids [P] of the clients that setup is given; all N
    # without it, which takes having all of them on the device
    scouts: Callable[[Key, jax.Array], jax.Array] | None = None
    # (variables, masks) -> the method's state on the server
    server_state: Callable[[Variables, Masks], PyTree] = _empty
    # (variables, masks) -> the method's state for one client
    client_state: Callable[[Variables, Masks], PyTree] = _empty
    # (context, client) -> (variables, masks) the client starts from
    receive: Callable[[Context, Client], tuple[Variables, Masks]] = _receive
    # (loss, variables, batch, key, context) -> (loss, changed collections)
    objective: Callable[..., tuple[jax.Array, Variables]] = _objective
    # variables -> what gradient() accumulates over the steps of one round
    memory: Callable[[Variables], PyTree] = _no_memory
    # (grad_fn, variables, memory, context) -> (value, gradients, memory)
    gradient: Callable[..., tuple[Any, Variables, PyTree]] = _gradient
    # (masks, variables) -> variables, at the start and after every step
    project: Callable[[Masks, Variables], Variables] = mask_algebra.apply
    # (key, local, context, client) -> masks
    client_prune: Callable[[Key, Local, Context, Client], Masks] = _keep_masks
    # local epochs after client_prune, under the new masks and before the upload
    fine_tune_epochs: int = 0
    # (key, local, context, client) -> (upload, state of the client)
    upload: Callable[[Key, Local, Context, Client], tuple[Upload, PyTree]] = _upload
    # (key, variables, masks, uploads, context) -> (variables, masks, server state)
    server_update: Callable[..., tuple[Variables, Masks, PyTree]] = _server_update
    # (variables, masks, context) -> variables sent out at the end of the round
    download: Callable[[Variables, Masks, Context], Variables] = _download
    # state -> the model to evaluate and take away
    model: Callable[[State], Variables] = _model
    # (key, state, clients [N]) -> state, after the last round
    finish: Callable[[Key, State, ClientData], State] = nothing_more
    # path of a leaf -> whether it counts as prunable in what a round reports
    prunable: Callable[[str], bool] | None = None


def no_projection(masks: Masks, variables: Variables) -> Variables:
    """The `Method.project` of methods whose masks keep everything."""
    del masks
    return variables


def mean_loss(losses: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean over the valid entries of ``[B]``; 0 if there is none."""
    total = jnp.sum(jnp.where(valid, losses, 0.0))
    return total / jnp.maximum(jnp.sum(valid, dtype=losses.dtype), 1.0)

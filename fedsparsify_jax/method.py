"""The hooks that make one federated method differ from another.

A `Method` is a record of pure functions with defaults that do nothing. The engine calls
them inside the jitted round, in this order:

    setup            round 1 only: initial masks (SNIP, GraSP, SynFlow, ERK, ...)
    receive          the model that one client starts from (personal masks, sub-models)
    objective        its training loss (proximal term, penalty, reparametrisation, the
                     sub-model of a growth stage)
    gradient         where and how the gradient is taken (look-ahead, accumulation)
    project          after every step: masks applied to the weights
    client_prune     its masks after training; `fine_tune_epochs` more epochs under them
                     may follow
    upload           what it sends, and what it keeps for its next time
    aggregate        the server's merge of all uploads
    server           purge, regrowth, an optimizer's step: links of a `chain`
    download         what of the new model is sent out and counted as bytes

Hooks that keep state are pairs: ``init`` makes it, the other function returns the next
one. They look at `Context`, `Client`, `Local` and `Uploads` alone. Decisions by the
round alone (``lax.cond`` on ``context.round``) stay real branches, for rounds are never
batched over clients.

The model to evaluate and the end's work are ``engine(...)._replace(model=, finish=)``.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import schedules
from fedsparsify_jax.types import (
    ClientData,
    Cohort,
    Key,
    Masks,
    Prunable,
    PyTree,
    Schedule,
    Variables,
)


class Context(NamedTuple):
    """The round as every client and the server see it when it starts."""

    round: jax.Array  # int32 scalar: t, from 1
    sparsity: jax.Array  # float32 scalar: the schedule's target s_t
    variables: Variables  # the global model
    masks: Masks  # its masks
    server: PyTree  # the method's state on the server
    clients: PyTree  # the method's state of all clients, [N, ...]
    compact: PyTree = ()  # places of the compact model, see `training.compact`
    step: PyTree = ()  # in `Method.gradient` alone: a `Step`
    data: PyTree = ()  # in `objective` and `gradient` alone: the client's `ClientData`


class Client(NamedTuple):
    """One client of the cohort."""

    id: jax.Array  # int32 scalar in [0, N)
    data: ClientData  # x [M, ...], y [M], sizes []
    state: PyTree  # what the method keeps for this client


class Local(NamedTuple):
    """One client's model after its training."""

    variables: Variables
    masks: Masks
    memory: PyTree  # what `Method.gradient` accumulated


class Step(NamedTuple):
    """One step of a client, for gradients taken elsewhere than at the weights."""

    masks: Masks  # the client's
    key: Key  # that the objective draws from as well: fold something in


class Upload(NamedTuple):
    """A client's message; the server sees it stacked, ``[K, ...]``."""

    variables: Variables
    masks: Masks
    extra: PyTree = ()  # anything else: gradients, scores, counts
    extra_bytes: PyTree = ()  # uint32: what that adds to the message in this round


class Uploads(NamedTuple):
    """All that reached the server in a round, or in a part of the cohort.

    ``variables``, ``masks`` and ``extra`` are empty after the merge of an `Aggregate`
    that only needs sums over clients.
    """

    variables: Variables  # [K, ...]
    masks: Masks  # [K, ...]
    extra: PyTree  # [K, ...]
    ids: jax.Array  # [K] int32: of the clients
    sizes: jax.Array  # [K] float32: numbers of examples n_k; 0 for uploads left out
    shares: jax.Array  # [K] float32: n_k over their sum in the cohort; 0 likewise


class Aggregate(NamedTuple):
    """A merge as sums over the clients and the model that follows from them.

    The sums are added up while the clients train, chunk by chunk and device by device,
    so that no more models are held than train at a time. A merge that must see all
    uploads at once, such as a median, has no sums and ``stacks`` (see `stacked`).
    """

    # (uploads of a part of the cohort, context) -> tree of sums, added over the parts
    sums: Callable[[Uploads, Context], PyTree]
    # (sums over the cohort, uploads, context) -> (variables, masks)
    merge: Callable[[PyTree, Uploads, Context], tuple[Variables, Masks]]
    stacks: bool = False  # whether `merge` needs the models of all uploads


def stacked(
    merge: Callable[[Uploads, Context], tuple[Variables, Masks]],
) -> Aggregate:
    """Returns the `Aggregate` of a merge that must see all uploads at once."""

    def no_sums(uploads: Uploads, context: Context) -> PyTree:
        return ()

    def of_all(
        sums: PyTree, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks]:
        return merge(uploads, context)

    return Aggregate(sums=no_sums, merge=of_all, stacks=True)


class Batch(NamedTuple):
    """One batch of one client; rows that are not valid repeat a real example."""

    x: jax.Array  # [B, ...]
    y: jax.Array  # [B]
    valid: jax.Array  # [B] bool


# (variables, batch, key) -> (mean loss of the valid examples, changed collections)
BatchLoss = Callable[[Variables, Batch, Key], tuple[jax.Array, Variables]]
# variables -> ((loss, changed collections), gradients of the trained collections)
GradFn = Callable[[Variables], tuple[tuple[jax.Array, Variables], Variables]]


class ObjectiveFn(Protocol):
    """The loss that a client minimises, made of the model's loss on a batch."""

    def __call__(
        self,
        loss: BatchLoss,
        variables: Variables,
        batch: Batch,
        key: Key,
        context: Context,
    ) -> tuple[jax.Array, Variables]: ...


class GradientFn(Protocol):
    """A step's loss and gradients, and the memory that the next step sees."""

    def __call__(
        self, grad_fn: GradFn, variables: Variables, memory: PyTree, context: Context
    ) -> tuple[tuple[jax.Array, Variables], Variables, PyTree]: ...


PruneFn = Callable[[Key, Local, Context, Client], Masks]
"""``(key, local, context, client) -> masks`` of one client after its training."""
SendFn = Callable[[Key, Local, Context, Client], tuple[Upload, PyTree]]
"""``(key, local, context, client) -> (upload, state kept for the client)``."""
SetupFn = Callable[[Key, Context, Cohort], tuple[Variables, Masks]]
"""``(key, context, clients [P]) -> (variables, masks)`` before round 1."""


class ServerFn(Protocol):
    """A step of the server after the merge.

    ``variables`` and ``masks`` come from the merge or the link before, the model of the
    round's start is in ``context``, and so is the state of this step:
    ``context.server``.
    """

    def __call__(
        self,
        key: Key,
        variables: Variables,
        masks: Masks,
        uploads: Uploads,
        context: Context,
    ) -> tuple[Variables, Masks, PyTree]: ...


def no_state(variables: Variables, masks: Masks) -> PyTree:
    """Returns the state of a hook that keeps none."""
    return ()


class GradientTransform(NamedTuple):
    """Gradients with a memory: it starts anew for every client in every round."""

    init: Callable[[Variables], PyTree]  # variables -> memory
    update: GradientFn


class Uploader(NamedTuple):
    """Uploads with a state for each client, which lasts over the rounds."""

    init: Callable[[Variables, Masks], PyTree]  # the state of one client
    send: SendFn


class ServerTransform(NamedTuple):
    """A step of the server with a state of its own, ``State.server``."""

    init: Callable[[Variables, Masks], PyTree]
    update: ServerFn


class Setup(NamedTuple):
    """The start of methods that choose masks before round 1."""

    # (key, sizes [N]) -> ids [P] of the clients whose data `masks` looks at
    clients: Callable[[Key, jax.Array], jax.Array]
    masks: SetupFn
    # (variables, masks chosen) -> uint32 scalars: bytes by and to each of these
    # clients; None for the model, and a score for every parameter back
    traffic: Callable[[Variables, Masks], tuple[jax.Array, jax.Array]] | None = None


def no_clients(key: Key, sizes: jax.Array) -> jax.Array:
    """Chooses no clients: the `Setup.clients` of methods that look at no data."""
    return jnp.zeros(0, jnp.int32)


def stateless(update: ServerFn) -> ServerTransform:
    """Returns the step of an ``update`` that gives ``context.server`` back as it is."""
    return ServerTransform(no_state, update)


def chain(*links: ServerTransform) -> ServerTransform:
    """Combines steps of the server: each works on the result of the one before it.

    Every link sees its own state in ``context.server``; the state of the chain is the
    tuple of theirs. A single link is returned as it is.

    Example:
      FedYogi, then the purge of FedSparsify: ``chain(server_step("yogi"), purge)`` with
      ``purge = purge_by(lambda variables, context: magnitude(variables))``.
    """
    if len(links) == 1:
        return links[0]

    def init(variables: Variables, masks: Masks) -> PyTree:
        return tuple(link.init(variables, masks) for link in links)

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        states = []
        keys = jax.random.split(key, len(links))
        for link, link_key, state in zip(links, keys, context.server, strict=True):
            link_context = context._replace(server=state)
            variables, masks, new = link.update(
                link_key, variables, masks, uploads, link_context
            )
            states.append(new)
        return variables, masks, tuple(states)

    return ServerTransform(init, update)


def _receive(context: Context, client: Client) -> tuple[Variables, Masks]:
    return context.variables, context.masks


def _objective(
    loss: BatchLoss, variables: Variables, batch: Batch, key: Key, context: Context
) -> tuple[jax.Array, Variables]:
    return loss(variables, batch, key)


def _no_memory(variables: Variables) -> PyTree:
    return ()


def _gradient(
    grad_fn: GradFn, variables: Variables, memory: PyTree, context: Context
) -> tuple[tuple[jax.Array, Variables], Variables, PyTree]:
    value, gradients = grad_fn(variables)
    return value, gradients, memory


def _keep_masks(key: Key, local: Local, context: Context, client: Client) -> Masks:
    return local.masks


def _send(
    key: Key, local: Local, context: Context, client: Client
) -> tuple[Upload, PyTree]:
    return Upload(local.variables, local.masks), client.state


def _unchanged(
    key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
) -> tuple[Variables, Masks, PyTree]:
    return variables, masks, context.server


def _download(variables: Variables, masks: Masks, context: Context) -> Variables:
    return variables


class Method(NamedTuple):
    """The parts of an algorithm; a new one replaces the few hooks it needs.

    Only `aggregate` has no default. Leaves, structures and dtypes of everything that a
    hook passes on must not depend on the round.
    """

    aggregate: Aggregate
    # t -> target sparsity, handed to the other hooks as context.sparsity
    schedule: Schedule = schedules.constant(0.0)
    # path of a leaf -> whether it counts as prunable in what a round reports
    prunable: Prunable | None = None
    setup: Setup | None = None
    objective: ObjectiveFn = _objective
    gradient: GradientTransform = GradientTransform(_no_memory, _gradient)
    # (masks, variables) -> variables, at the start and after every step
    project: Callable[[Masks, Variables], Variables] = mask_algebra.apply
    client_prune: PruneFn = _keep_masks
    # local epochs after client_prune, under the new masks and before the upload
    fine_tune_epochs: int = 0
    upload: Uploader = Uploader(no_state, _send)
    server: ServerTransform = ServerTransform(no_state, _unchanged)
    # whether a round in which no upload counts leaves the model as it was
    needs_uploads: bool = True
    # whether messages carry masks, so that a kept weight which is zero costs 32 bits
    masks_travel: bool = False
    # whether weights that were pruned may come back, at zero
    grows: bool = False
    # (context, client) -> (variables, masks) the client starts from
    receive: Callable[[Context, Client], tuple[Variables, Masks]] = _receive
    # (context, client) -> uint32 bytes that one client is sent in the round, of methods
    # that send each another model; None counts the new model, by `download`
    received_bytes: Callable[[Context, Client], jax.Array] | None = None
    # (variables, masks, context) -> variables sent out at the end of the round
    download: Callable[[Variables, Masks, Context], Variables] = _download


def no_projection(masks: Masks, variables: Variables) -> Variables:
    """Returns the variables: the `Method.project` of methods that prune nothing."""
    return variables

"""One round in two halves: the clients tune and upload, the server merges and purges.

`client_half` and `server_half` are pure functions of records, and `round_of` runs one
after the other for a cohort on one machine. A deployment calls the same halves on
different ones: the server opens the round (`records.open_round`), every client gets
that context and its `records.ClientTask`, and the results go to the server's half.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.engine.records import (
    ClientHalf,
    ClientKeys,
    ClientResult,
    ClientTask,
    Members,
    RoundKeys,
    client_tasks,
    keep_states,
    members_of,
    messages_of,
    open_round,
    report,
    result_of,
    sum_part,
    uploads_of,
)
from fedsparsify_jax.engine.tuning import Tuning
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.method import Context, Local, Method
from fedsparsify_jax.types import ClientsState, Cohort, Key, PyTree, RoundInfo, State

ServerHalf = Callable[
    [Key, State, Context, Members, PyTree, ClientResult], tuple[State, RoundInfo]
]
"""The server's part of a round; see `server_half`."""
RoundFn = Callable[[Key, State, Cohort], tuple[State, RoundInfo]]
"""A round of gathered clients: ``(key, state, cohort) -> (state, info)``."""


def client_half(method: Method, tuning: Tuning) -> ClientHalf:
    """Builds one client's part of a round: tune, prune its model, upload.

    Args:
      method: the hooks.
      tuning: the local training, see `tuning.tuning_of`.

    Returns:
      ``(context, task) -> result``: a pure function of the global model and masks (in
      the context), of the client's data, state and key (in the task).
    """

    def client_round(context: Context, task: ClientTask) -> ClientResult:
        client, keys = task.client, ClientKeys.of(task.key, tuning.fine_tunes)

        # Tune.
        start, masks = method.receive(context, client)
        trained = tuning.first(keys.train, start, masks, task, context)

        # Purge, in methods whose clients do, and tune what is left.
        local = Local(variables=trained.variables, masks=masks, memory=trained.memory)
        masks = method.client_prune(keys.prune, local, context, client)
        trained = tuning.again(keys.again, trained, masks, task, context)

        # Upload.
        local = Local(variables=trained.variables, masks=masks, memory=trained.memory)
        upload, extra = method.upload.send(keys.upload, local, context, client)
        optimizer = trained.optimizer if tuning.keeps_optimizer else ()
        kept = ClientsState(optimizer=optimizer, extra=extra)
        result = result_of(method, trained, upload, kept, task)
        if method.received_bytes is not None:
            sent = method.received_bytes(context, client).astype(jnp.uint32)
            result = result._replace(bytes_down=sent)
        return result

    return client_round


def server_half(method: Method) -> ServerHalf:
    """Builds the server's part of a round: merge, purge, report.

    Returns:
      ``(key, state, context, members, sums, results) -> (state, info)``: ``key`` is
      `records.RoundKeys.server`, ``sums`` and ``results`` come from
      `records.sum_uploads`, or part by part from `records.sum_part`. What is kept for
      clients is left as it is in the state.
    """

    def server_round(
        key: Key,
        state: State,
        context: Context,
        members: Members,
        sums: PyTree,
        results: ClientResult,
    ) -> tuple[State, RoundInfo]:
        uploads = uploads_of(results, members, jnp.ones(results.loss.shape, bool))

        # Merge.
        variables, masks = method.aggregate.merge(sums, uploads, context)

        # Purge, regrow, or take an optimizer's step.
        variables, masks, server = method.server.update(
            key, variables, masks, uploads, context
        )

        # If no upload counts, keep the old model and skip the purge.
        variables, masks, server = trees.where(
            jnp.any(uploads.sizes > 0) | (not method.needs_uploads),
            (variables, masks, server),
            (context.variables, context.masks, context.server),
        )
        new = State(
            variables=variables,
            masks=masks,
            round=context.round,
            clients=state.clients,
            server=server,
        )
        return new, report(method, context, new, members, uploads, results)

    return server_round


def round_of(
    method: Method,
    clients: ClientHalf,
    client_map: ClientMap,
    faults: Faults | None = None,
    keep_messages: bool = False,
) -> RoundFn:
    """Builds the round of a cohort on one machine from its two halves.

    With ``keep_messages`` it reports all that was sent.
    """
    server = server_half(method)

    def summed(
        context: Context, tasks: ClientTask, results: ClientResult, present: jax.Array
    ) -> tuple[PyTree, ClientResult]:
        part = sum_part(method.aggregate, context, tasks.member, results, present)
        return (part[0], results) if keep_messages else part

    def run(key: Key, state: State, cohort: Cohort) -> tuple[State, RoundInfo]:
        keys = RoundKeys.of(key)
        context = open_round(method, state)
        members = members_of(cohort, context, faults, keys.faults)
        tasks = client_tasks(keys.local, state, cohort, members)

        # Tune. The merge's sums are added up while clients train.
        sums, results = client_map(clients, context, tasks, summed)

        # Merge and purge.
        new, info = server(keys.server, state, context, members, sums, results)

        if keep_messages:
            info = info._replace(messages=messages_of(context, members, results))
        changed = members.participating & results.finite & (info.merged > 0)
        return keep_states(state, new, cohort.ids, changed, results.state), info

    return run

"""Rounds played client by client through the two halves, beside the round of `run`."""

import chex
import jax
import jax.numpy as jnp
import pytest
from toy import MLP, mean, sending

from fedsparsify_jax import pruning, trees
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.server_purge import purge_by
from fedsparsify_jax.client_map import chunked
from fedsparsify_jax.engine import (
    client_half,
    engine,
    resolve,
    server_half,
    sum_uploads,
    tuning_of,
)
from fedsparsify_jax.engine.records import (
    RoundKeys,
    client_tasks,
    keep_states,
    members_of,
    open_round,
)
from fedsparsify_jax.method import Method, Upload
from fedsparsify_jax.schedules import polynomial
from fedsparsify_jax.types import Cohort

SCHEDULE = polynomial(0.6, end=3)
OPTIONS = {"local_epochs": 2, "batch_size": 3, "learning_rate": 0.3, "num_clients": 4}


def magnitude(variables, context):
    return pruning.magnitude(variables)


def purge_own(key, local, context, client):
    scores = pruning.magnitude(local.variables)
    return pruning.prune(scores, context.sparsity, within=local.masks)


def count_rounds(key, local, context, client):
    return Upload(local.variables, local.masks), client.state + 1


METHODS = {
    "global": Method(aggregate("mean"), SCHEDULE, server=purge_by(magnitude)),
    "local": Method(
        aggregate("mean", "authors"),
        SCHEDULE,
        client_prune=purge_own,
        fine_tune_epochs=1,
        upload=sending(count_rounds, lambda variables, masks: jnp.int32(0)),
    ),
    "stacked": Method(mean),
}


def round_on_machines(method, options, key, state, cohort):
    """The server opens the round; every client works alone; the server closes it."""
    keys = RoundKeys.of(key)
    context = open_round(method, state)
    members = members_of(cohort, context, None, keys.faults)
    tasks = client_tasks(keys.local, state, cohort, members)
    client = jax.jit(client_half(method, tuning_of(MLP.apply, method, options)))
    results = [client(context, trees.take(tasks, k)) for k in range(len(members.ids))]

    add = jax.jit(lambda *arrived: sum_uploads(method.aggregate, *arrived))
    results = jax.tree.map(lambda *rows: jnp.stack(rows), *results)
    sums, results = add(context, members, results)
    server = jax.jit(server_half(method))
    new, info = server(keys.server, state, context, members, sums, results)
    changed = results.finite & (info.merged > 0)
    return keep_states(state, new, cohort.ids, changed, results.state), info


def check_three_rounds(name, clients):
    method = METHODS[name]
    options = OPTIONS | {"momentum": 0.9, "optimizer_state": "kept"}
    algorithm = engine(MLP.apply, method, client_map=chunked(1), **options)
    run = jax.jit(algorithm.cohorts.run)
    together = algorithm.init(jax.random.key(0), MLP.init(jax.random.key(1)))
    apart = together
    ids = jnp.array([0, 2, 3])
    cohort = Cohort(ids, trees.take(clients, ids))
    for t in range(3):
        key = jax.random.fold_in(jax.random.key(2), t)
        together, expected = run(jax.random.clone(key), together, cohort)
        apart, info = round_on_machines(method, resolve(options), key, apart, cohort)
        chex.assert_trees_all_equal(info, expected)
        chex.assert_trees_all_equal(apart, together)
    assert float(info.sparsity) > 0.5 or name == "stacked"


@pytest.mark.parametrize("name", METHODS)
def test_a_round_client_by_client_has_the_bits_of_run(name, clients):
    check_three_rounds(name, clients)


@pytest.mark.parametrize("name", ["global", "local"])
def test_also_as_users_compile(name, clients, optimized):
    check_three_rounds(name, clients)

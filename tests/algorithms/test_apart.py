"""Every algorithm's round in halves, as on machines of their own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_build import CLIENTS, build, start
from conformance_rows import ROWS
from conftest import make_clients
from toy import round_keys

from fedsparsify_jax import client_map, trees
from fedsparsify_jax.engine.halves import fields_read, no_examples
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.types import ClientsState

# Their clients' data are looked at before round 1, or a round's network is its stage's.
TOGETHER = ("snip", "grasp", "prunefl", "flash", "progfed", "ssfl")
OTHERS = "dispfl"  # its clients read one another's models
# One row of every algorithm, and the engine's options.
FIRST = [name for name in ROWS if "," not in name or name.startswith("fedsparsify")]
APART = [name for name in FIRST if name.split(", ")[0] not in (*TOGETHER, OTHERS)]


@pytest.fixture(scope="module")
def clients():
    return make_clients()


def apart(algorithm, key, state, kept, clients, arrived):
    """One round: the server opens it, each client works alone, the server merges."""
    halves, numbers = algorithm.halves, jnp.arange(CLIENTS, dtype=jnp.int32)
    nobody = no_examples(trees.take(clients, 0))
    context = jax.jit(halves.open)(key, state, nobody)
    context = context._replace(clients=())
    client = jax.jit(halves.client)
    results = [
        client(key, context, numbers[k], trees.take(clients, k), kept[k])
        for k in range(CLIENTS)
    ]
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *results)
    state, info = jax.jit(halves.merge)(
        key, state, context, numbers, clients.sizes, arrived, stacked
    )
    kept = [
        r.state if here else k
        for r, k, here in zip(results, kept, arrived, strict=True)
    ]
    return state, info, kept


@pytest.mark.parametrize("name", APART)
def test_rounds_in_halves_have_the_bits_of_step(name, clients):
    algorithm = build(name, client_map=client_map.chunked(1))
    whole = start(algorithm)
    state = whole._replace(clients=ClientsState())
    kept = [jax.jit(algorithm.halves.keep)(whole.variables)] * CLIENTS
    step, everyone = jax.jit(algorithm.step), jnp.ones(CLIENTS, bool)
    for key in round_keys(2):
        whole, info = step(key, whole, clients)
        state, apart_info, kept = apart(algorithm, key, state, kept, clients, everyone)
        chex.assert_trees_all_equal(state.variables, whole.variables)
        chex.assert_trees_all_equal(state.masks, whole.masks)
        chex.assert_trees_all_equal(state.server, whole.server)
        same = ("loss", "sparsity", "bytes_up", "bytes_down", "merged")
        for field in same:
            chex.assert_trees_all_equal(
                getattr(info, field), getattr(apart_info, field)
            )


@pytest.mark.parametrize("name", [*APART, OTHERS])
def test_no_client_reads_what_others_keep(name, clients):
    algorithm = build(name)
    one = trees.take(clients, 0)
    read = fields_read(algorithm.halves, start(algorithm), one)
    assert read
    assert ("clients" in read) == (name == OTHERS)


@pytest.mark.parametrize("name", TOGETHER)
def test_what_works_on_clients_together_has_no_halves(name):
    assert build(name).halves is None


def test_a_client_that_sends_nothing_is_left_out_as_if_it_dropped_out(clients):
    faults = Faults(dropout=jnp.array([0.0, 1.0, 0.0, 0.0]))
    dropping = build("fedsparsify-local", faults=faults)
    whole, info = jax.jit(dropping.step)(*round_keys(1), start(dropping), clients)
    algorithm = build("fedsparsify-local", client_map=client_map.chunked(1))
    kept = [algorithm.halves.keep(start(algorithm).variables)] * CLIENTS
    arrived = jnp.array([True, False, True, True])
    (key,) = round_keys(1)
    state, without, _ = apart(algorithm, key, start(algorithm), kept, clients, arrived)
    chex.assert_trees_all_close(state.variables, whole.variables, rtol=1e-6)
    chex.assert_trees_all_equal(state.masks, whole.masks)
    assert (int(without.dropped), int(without.merged)) == (1, 3)
    assert without.bytes_up.tolist() == info.bytes_up.tolist()


def test_an_upload_with_a_nan_is_rejected_whatever_its_sender_says(clients):
    algorithm = build("fedavg")
    halves, state, (key,) = algorithm.halves, start(algorithm), round_keys(1)
    context = halves.open(key, state, no_examples(trees.take(clients, 0)))
    numbers = jnp.arange(CLIENTS, dtype=jnp.int32)
    kept = halves.keep(state.variables)
    result = halves.client(key, context, numbers[0], trees.take(clients, 0), kept)
    broken = jax.tree.map(
        lambda leaf: np.full_like(leaf, np.nan), result.upload.variables
    )
    broken = result._replace(upload=result.upload._replace(variables=broken))
    with jax.debug_nans(False):
        stacked = jax.tree.map(lambda *rows: np.stack(rows), result, broken)
        assert bool(stacked.finite.all())
        new, info = halves.merge(
            key,
            state,
            context,
            numbers[:2],
            clients.sizes[:2],
            np.ones(2, bool),
            stacked,
        )
    assert (int(info.rejected), int(info.merged)) == (1, 1)
    chex.assert_tree_all_finite(new.variables)

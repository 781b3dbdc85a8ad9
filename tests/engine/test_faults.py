"""Clients that drop out, straggle or send NaN, and the round that goes on without."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import apply_fn, half_square, round_keys, run_rounds, sending, serving

from fedsparsify_jax import algorithms, masks, trees
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.client_map import chunked, device_mesh, sharded, vmapped
from fedsparsify_jax.engine import engine
from fedsparsify_jax.engine.wrappers import faults
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import Method, Upload
from fedsparsify_jax.runner.display.progress import failures
from fedsparsify_jax.runner.display.summary import summarize
from fedsparsify_jax.runner.options import grammars
from fedsparsify_jax.types import ClientData, Cohort

RATE, CLIENTS = 0.5, 6
START = {"params": {"w": jnp.array([4.0, -2.0, 1.0, 0.5])}}
EVERYBODY = np.arange(CLIENTS)


def federation():
    """Clients 0 to 5 with 2, 4, 2, 4, ... examples, all alike; batches of 1."""
    targets = np.random.default_rng(0).normal(size=(CLIENTS, 1, 4)).astype(np.float32)
    count = jnp.array([2, 4] * 3, jnp.int32)
    y = jnp.asarray(np.repeat(targets, 4, axis=1))
    return ClientData(jnp.zeros((CLIENTS, 4, 1)), y, count)


def algorithm(build=algorithms.fedavg, **options):
    plain = {"learning_rate": RATE, "local_epochs": 2, "batch_size": 1}
    return build(apply_fn, loss_fn=half_square, **(plain | options))


def play(made, rounds=1, clients=None):
    clients, state = clients or federation(), made.init(jax.random.key(0), START)
    keys = round_keys(rounds)
    states, infos = run_rounds(jax.jit(made.step), state, clients, keys)
    return states[-1], infos


def steps_of(effort, total):
    return min(total, max(1, int(effort * total + 1e-4)))


def expected_round(start, ids, steps):
    """The mean of the clients' models after so many steps, and the mean loss."""
    clients = federation()
    count, models, losses = np.asarray(clients.sizes), [], []
    for client, made in zip(ids, steps, strict=True):
        target = np.asarray(clients.y)[client, 0].astype(np.float64)
        w, total = start.astype(np.float64), 0.0
        for _ in range(made):
            total += 0.5 * np.sum((w - target) ** 2)
            w = w - RATE * (w - target)
        models.append(w)
        losses.append(total / made)
    weights = count[ids] / count[ids].sum()
    return weights @ np.array(models), weights @ np.array(losses)


TABLE = np.zeros((2, CLIENTS))
TABLE[0, [1, 4]] = 1.0
TABLE[1, 0] = 1.0


@pytest.mark.parametrize(
    "strategy",
    [
        vmapped(),
        chunked(1),
        sharded(device_mesh(jax.devices()[:2]), chunked(2)),
    ],
    ids=["vmapped", "chunked", "sharded"],
)
def test_rounds_go_on_with_those_who_are_left(strategy):
    """A schedule of drop-outs, and client 2 an eternal straggler, worked out here."""
    slow = np.zeros(CLIENTS)
    slow[2] = 1.0
    chosen = Faults(dropout=jnp.asarray(TABLE), straggle=jnp.asarray(slow), effort=0.3)
    state, infos = play(algorithm(faults=chosen, client_map=strategy), rounds=3)
    w = np.asarray(START["params"]["w"])
    count = np.asarray(federation().sizes)
    for t, info in enumerate(infos):
        gone = TABLE[t] > 0 if t < 2 else np.zeros(CLIENTS, bool)
        left = EVERYBODY[~gone]
        steps = [steps_of(0.3, 2 * count[i]) if i == 2 else 2 * count[i] for i in left]
        w, loss = expected_round(w, left, steps)
        np.testing.assert_allclose(info.loss, loss, rtol=1e-5)
        counts = [int(n) for n in (info.merged, info.dropped, info.stragglers)]
        assert counts == [len(left), gone.sum(), 1]
        assert int(info.rejected) == 0
        np.testing.assert_array_equal(np.asarray(info.bytes_up) == 0, gone)
        assert np.all(np.asarray(info.bytes_down) > 0)
    np.testing.assert_allclose(state.variables["params"]["w"], w, rtol=1e-5)


@pytest.mark.parametrize("merge", ["mean", "median"])
def test_a_client_that_diverges_is_left_out_without_any_faults(merge):
    """Client 3 has infinite targets: the others' round, and its state as it was."""
    options = {"optimizer_state": "kept", "num_clients": CLIENTS, "momentum": 0.5}
    made = algorithm(merge=merge, **options)
    clients = federation()
    wild = clients._replace(y=clients.y.at[3].set(jnp.inf))
    absent = np.zeros(CLIENTS)
    absent[3] = 1.0
    without = algorithm(
        merge=merge, faults=Faults(dropout=jnp.asarray(absent)), **options
    )
    with jax.debug_nans(False):
        state, infos = play(made, rounds=2, clients=wild)
    expected, others = play(without, rounds=2)
    chex.assert_trees_all_close(state, expected, rtol=1e-6, atol=1e-6)
    for info, other in zip(infos, others, strict=True):
        assert (int(info.rejected), int(info.dropped)) == (1, 0)
        assert (int(other.rejected), int(other.dropped)) == (0, 1)
        assert int(info.merged) == CLIENTS - 1
        np.testing.assert_allclose(info.loss, other.loss, rtol=1e-6)
        assert int(info.bytes_up[3]) > 0 and int(other.bytes_up[3]) == 0
    trace = np.asarray(jax.tree.leaves(state.clients.optimizer)[0])
    assert not trace[3].any() and trace[2].any()


def zero(variables, masks):
    return jnp.int32(0)


def remembering(**options):
    """A method that counts its rounds on the server and prunes, whatever it is sent."""

    def send(key, local, context, client):
        return Upload(local.variables, local.masks), client.state + 1

    def purge(key, variables, kept, uploads, context):
        kept = {"params": {"w": jnp.abs(variables["params"]["w"]) > 0.5}}
        return masks.apply(kept, variables), kept, context.server + 1

    method = Method(
        aggregate=aggregate("mean", "strict"),
        upload=sending(send, zero),
        server=serving(purge, zero),
    )
    return algorithm(
        lambda apply_fn, **options: engine(apply_fn, method, **options),
        num_clients=CLIENTS,
        **options,
    )


@pytest.mark.parametrize("kind", ["dropout", "broken"])
def test_without_anybody_nothing_changes_but_the_round(kind):
    made = remembering(faults=Faults(**{kind: faults.within(1.0, 1, 1)}))
    before = made.init(jax.random.key(0), START)
    with jax.debug_nans(False):
        after, infos = play(made)
        later, more = play(made, rounds=2)
    assert int(after.round) == 1
    chex.assert_trees_all_equal(after._replace(round=before.round), before)
    assert int(infos[0].merged) == 0 and np.isnan(infos[0].loss)
    assert int(infos[0].dropped if kind == "dropout" else infos[0].rejected) == CLIENTS
    assert int(more[1].merged) == CLIENTS and int(later.server) == 1
    assert not np.all(later.masks["params"]["w"])
    np.testing.assert_array_equal(later.clients.extra, np.ones(CLIENTS))


def test_faults_that_never_happen_leave_every_bit():
    plain, infos = play(algorithm(), rounds=2)
    for chosen in (Faults(), Faults(dropout=faults.within(1.0, 5, 9), effort=0.1)):
        same, others = play(algorithm(faults=chosen), rounds=2)
        chex.assert_trees_all_equal(same, plain)
        chex.assert_trees_all_equal(others, infos)


def test_run_is_step_and_faults_may_be_swept():
    """Traced chances under vmap; gathered clients; a cohort of some."""
    ids = jnp.array([1, 2, 5])

    def of(dropout):
        made = algorithm(
            faults=Faults(dropout, broken=0.3), participation=0.5, num_clients=CLIENTS
        )
        state = made.init(jax.random.key(0), START)
        key = jax.random.key(4)
        ids = made.cohorts.sample(key, CLIENTS)
        cohort = Cohort(ids, trees.take(federation(), ids))
        stepped = made.step(jax.random.clone(key), state, federation())
        return stepped, made.cohorts.run(jax.random.clone(key), state, cohort)

    with jax.debug_nans(False):
        stepped, played = jax.jit(jax.vmap(of))(jnp.array([0.0, 0.5, 1.0]))
    chex.assert_trees_all_equal(stepped, played)
    dropped = stepped[1].dropped
    assert int(dropped[0]) == 0 and int(dropped[2]) == len(ids)


def test_chances_strike_as_often_as_they_say():
    ids = jnp.arange(4000)
    with jax.debug_nans(False):  # it draws them
        drawn = faults.sample_faults(
            Faults(dropout=0.1, straggle=0.3, effort=0.25, broken=0.05),
            jax.random.key(0),
            jnp.int32(1),
            ids,
        )
    dropped, slow = ~np.asarray(drawn.participating), np.asarray(drawn.straggling)
    garbage = np.asarray(drawn.corruption)
    np.testing.assert_allclose(dropped.mean(), 0.1, atol=0.015)
    np.testing.assert_allclose(slow[~dropped].mean(), 0.3, atol=0.025)
    np.testing.assert_allclose((garbage != 0)[~dropped].mean(), 0.05, atol=0.012)
    assert np.isnan(garbage).any() and np.isinf(garbage).any()
    assert not (dropped & (slow | (garbage != 0))).any()
    assert set(np.asarray(drawn.effort)[~dropped]) == {0.25, 1.0}
    # A client's faults do not depend on the rest of the cohort.
    with jax.debug_nans(False):
        some = faults.sample_faults(
            Faults(dropout=0.1), jax.random.key(0), jnp.int32(1), ids[7:9]
        )
    np.testing.assert_array_equal(~some.participating, dropped[7:9])


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (Faults(dropout=1.5), "dropout is 1.5"),
        (Faults(broken=-0.1), "broken is -0.1"),
        (Faults(effort=0.0), "effort is 0.0"),
    ],
)
def test_numbers_out_of_range_are_refused(chosen, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        algorithm(faults=chosen)


def test_chances_of_impossible_shapes_are_refused():
    for chance in (jnp.zeros((1, 2, 3)), lambda t, ids: jnp.zeros((2, 2))):
        with pytest.raises(ValueError, match="a chance of failure has shape"):
            faults.chances(chance, jnp.int32(1), jnp.arange(2))


# -- the command line


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1), st.floats(0, 1))
def test_what_is_written_is_what_is_parsed(dropout, straggle, effort, nan):
    text = f"dropout={dropout:f}, straggle={straggle:f}:{effort:f},nan={nan:f}"
    found = grammars.faults(text)
    np.testing.assert_allclose(found, (dropout, straggle, effort, nan), atol=1e-6)


@given(
    st.text(alphabet="dropoutsagnle=:@.,-0123456789 e", max_size=40)
    | st.text(max_size=20)
    | st.from_regex(
        r"(dropout|straggle|nan)=[-0-9.:@e]{0,12}(,nan=\d)?", fullmatch=True
    )
)
def test_any_text_is_faults_or_one_clear_line(text):
    try:
        found = grammars.faults(text)
    except InputError as error:
        said = str(error)
        assert said.startswith("--faults is ") and "dropout=P" in said
        assert len(said.splitlines()) == 1
    else:
        faults.check(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dropout", "'dropout' is none of dropout, straggle, nan"),
        ("dropuot=0.1", "'dropuot=0.1' is none of"),
        ("dropout=1.5", "the probability of dropout is 1.5"),
        ("nan=0.1:0.5", "nan takes no share of steps"),
        ("straggle=0.1:0", "the share of a straggler's steps is 0"),
        ("nan=0.1,nan=0.2", "nan is there twice"),
        ("nan=0.1@9-5", "the rounds 9-5 do not count up from 1"),
        ("nan=0.1@x", "'x' is neither a round nor rounds"),
    ],
)
def test_what_is_wrong_is_named(text, said):
    with pytest.raises(InputError, match=re.escape(said)):
        grammars.faults(text)


def test_entries_may_be_confined_to_rounds():
    found = grammars.faults("dropout=0.5@2-3,nan=1@7")
    ids = jnp.arange(2)
    for t, dropout, nan in ((1, 0, 0), (2, 0.5, 0), (3, 0.5, 0), (4, 0, 0), (7, 0, 1)):
        assert faults.chances(found.dropout, jnp.int32(t), ids)[0] == dropout
        assert faults.chances(found.broken, jnp.int32(t), ids)[1] == nan


# -- what people are told


def test_failures_are_shown_and_totalled():
    record = {
        "round": 1,
        "test_accuracy": 0.5,
        "test_loss": 1.0,
        "sparsity": 0.0,
        "target_sparsity": 0.0,
        "bytes_up": 4,
        "bytes_down": 4,
        "bytes_dense": 8,
        "seconds": 1.0,
    }
    new = {"merged": 3, "dropped": 2, "stragglers": 0, "rejected": 1}
    nobody = {"merged": 0, "dropped": 6, "stragglers": 0, "rejected": 0}
    rows = [record, record | new, record | nobody]
    summary = summarize(rows, parameters=1, kept=1, numbers=1)
    totals = [summary[name] for name in ("dropped", "stragglers", "rejected")]
    assert totals == [8, 0, 1] and summary["rounds_without_clients"] == 1
    assert failures(record) == "" and failures(record | new) == "dropped 2, rejected 1"

"""LotteryFL: rounds against NumPy, and tickets that only become smaller."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_clients
from toy import MLP, linear, round_keys, run_rounds

from fedsparsify_jax import algorithms, masks
from fedsparsify_jax.types import ClientData

SIZES, RATE = (7, 4, 1, 6), 0.5
W0 = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)
# One batch holds a whole client, so that no order matters.
PLAIN = {"learning_rate": RATE, "local_epochs": 2, "batch_size": 7, "num_clients": 4}


def played(model, rounds, clients=None, **options):
    algorithm = algorithms.lotteryfl(model.apply, **PLAIN | options)
    state = algorithm.init(jax.random.key(1), model.init(jax.random.key(2)))
    clients = make_clients(SIZES) if clients is None else clients
    step = jax.jit(algorithm.step)
    return algorithm, *run_rounds(step, state, clients, round_keys(rounds))


def kept_masks(state):
    return state.clients.extra["params"]["w"]


def descended(w, mask, x, y):
    """Two steps on softmax cross-entropy, under a mask."""
    for _ in range(PLAIN["local_epochs"]):
        logits = x @ w
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        w = mask * (w - RATE * x.T @ (p - np.eye(3)[y]) / len(y))
    return w


def oracle(w, tickets, clients, threshold, rate, target):
    """The global weights and all tickets after a round, and who purged."""
    total, holders, purged = np.zeros_like(w), np.zeros_like(w), []
    for k, size in enumerate(SIZES):
        x, y = np.asarray(clients.x[k, :size]), np.asarray(clients.y[k, :size])
        mask, start = tickets[k], tickets[k] * w
        accuracy = ((x @ start).argmax(1) == y).mean()
        purges = accuracy > threshold and mask.mean() > 1 - target
        if purges:
            order = np.argsort(np.where(mask, np.abs(start), np.inf).ravel())
            mask = mask.copy()
            mask.flat[order[: int(np.floor(rate * mask.sum()))]] = False
            start = mask * W0
        total += descended(start.astype(float), mask, x, y)
        holders += mask
        tickets[k] = mask
        purged.append(purges)
    return np.where(holders > 0, total / np.maximum(holders, 1), w), tickets, purged


def test_rounds_are_numpys():
    clients = make_clients(SIZES)
    options = {"accuracy_threshold": 0.6, "prune_rate": 0.3, "final_sparsity": 0.5}
    algorithm, states, _ = played(linear(W0), 6, **options)
    w, tickets, purged = W0.astype(float), [np.ones((5, 3), bool)] * 4, []
    for state in states[1:]:
        w, tickets, who = oracle(w, list(tickets), clients, 0.6, 0.3, 0.5)
        purged.append(who)
        np.testing.assert_allclose(state.variables["params"]["w"], w, atol=1e-5)
        np.testing.assert_array_equal(kept_masks(state), tickets)
        for k, ticket in enumerate(tickets):
            mine = algorithm.client_model(state, jnp.int32(k))["params"]["w"]
            np.testing.assert_allclose(mine, ticket * w, atol=1e-5)
    each = np.array(purged)
    assert each.any(0).sum() > 1 and not each.all()  # some do, some do not
    # Nobody goes on below one half: 15, 11, 8 and 6 weights are left.
    assert min(ticket.sum() for ticket in tickets) == 6


def test_tickets_are_nested_and_stop_at_the_target():
    _, states, infos = played(
        MLP, 12, accuracy_threshold=0.0, final_sparsity=0.5, prunable=masks.kernels_only
    )
    for before, after in itertools.pairwise(states):
        old, new = before.clients.extra, after.clients.extra
        chex.assert_trees_all_equal(masks.intersect(old, new), new)
    last = states[-1].clients.extra["params"]
    for k in range(4):
        kept = sum(last[name]["kernel"][k].sum() for name in last)
        assert 0.8 * 0.5 * 32 - 2 < kept <= 0.5 * 32
        assert all(last[name]["bias"][k].all() for name in last)
    sent = np.array([info.bytes_up for info in infos], int)
    assert (np.diff(sent, axis=0) <= 0).all() and sent[-1].max() < 0.65 * 4 * 39
    # What is sent down has the masks of the round before.
    down = np.array([info.bytes_down for info in infos], int)
    np.testing.assert_array_equal(down[1:], sent[:-1])


def test_what_nobody_holds_stays_as_it_was():
    _, states, _ = played(linear(W0), 8, accuracy_threshold=0.0, prune_rate=0.5)
    for before, after in itertools.pairwise(states):
        nobody = ~kept_masks(after).any(0)
        old, new = (s.variables["params"]["w"] for s in (before, after))
        np.testing.assert_array_equal(new[nobody], old[nobody])
    assert nobody.any()


def test_below_the_threshold_it_is_an_average_by_clients():
    """An accuracy of 1 is not above 1: nobody purges, and each of two counts half."""
    _, states, infos = played(linear(W0), 1, accuracy_threshold=1.0)
    clients = make_clients(SIZES)
    trained = [
        descended(W0.astype(float), 1, clients.x[k, :size], clients.y[k, :size])
        for k, size in enumerate(SIZES)
    ]
    new = states[-1].variables["params"]["w"]
    np.testing.assert_allclose(new, np.mean(trained, 0), atol=1e-5)
    assert infos[-1].bytes_up.tolist() == [4 * 15] * 4


def test_clients_that_take_no_part_keep_their_tickets():
    _, states, infos = played(linear(W0), 5, accuracy_threshold=0.0, participation=0.5)
    for before, after, info in zip(states, states[1:], infos, strict=False):
        away = np.setdiff1d(np.arange(4), info.cohort)
        np.testing.assert_array_equal(kept_masks(after)[away], kept_masks(before)[away])


@pytest.mark.parametrize("name", ["accuracy_threshold", "prune_rate"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 1.5: it must be from 0 to 1"):
        algorithms.lotteryfl(MLP.apply, **{name: 1.5})


def test_targets_that_are_no_classes_are_refused():
    clients = ClientData(jnp.zeros((4, 1, 5)), jnp.zeros((4, 1)), jnp.ones(4, int))
    with pytest.raises(ValueError, match="its targets must be classes"):
        played(linear(W0), 1, clients, loss_fn=lambda outputs, y: outputs[:, 0] - y)

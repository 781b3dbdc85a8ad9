"""DisPFL: rounds against NumPy, neighbours, and masks that keep their sizes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_clients
from toy import MLP, linear, round_keys, run_rounds

from fedsparsify_jax import algorithms, trees
from fedsparsify_jax.algorithms.dispfl import neighbours_of

SIZES, RATE, ROUNDS = (7, 4, 1, 6, 3), 0.5, 5
W0 = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)
# One batch holds a whole client, so that no order matters.
PLAIN = {"learning_rate": RATE, "local_epochs": 2, "batch_size": 7, "num_clients": 5}
PLAIN |= {"neighbours": 2, "rounds": ROUNDS, "final_sparsity": 0.4}


def played(model, rounds=ROUNDS, **options):
    algorithm = algorithms.dispfl(model.apply, **PLAIN | options)
    state = algorithm.init(jax.random.key(1), model.init(jax.random.key(2)))
    clients = make_clients(SIZES)
    step = jax.jit(algorithm.step)
    return algorithm, *run_rounds(step, state, clients, round_keys(rounds))


def gradient(w, x, y):
    logits = x @ w
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return x.T @ (p - np.eye(3)[y]) / len(y)


def smallest(scores, count):
    chosen = np.zeros(scores.size, bool)
    chosen[np.argsort(scores.ravel(), kind="stable")[:count]] = True
    return chosen.reshape(scores.shape)


def oracle(models, kept, clients, t, seed):
    """All clients' models and masks after a round, from those before it."""
    new_models, new_kept = [], []
    for k, size in enumerate(SIZES):
        x, y = np.asarray(clients.x[k, :size]), np.asarray(clients.y[k, :size])
        circle = [k, *neighbours_of(jnp.uint32(seed), t, k, 5, 2).tolist()]
        total = sum(kept[j] * models[j] for j in circle)
        holders = sum(kept[j].astype(float) for j in circle)
        w = kept[k] * total / np.maximum(holders, 1)
        for _ in range(2):
            w = kept[k] * (w - RATE * gradient(w, x, y))
        alpha = 0.5 / 2 * (1 + np.cos(np.pi * (t - 1) / ROUNDS))
        count = int(np.ceil(alpha * kept[k].sum() - 1e-6))
        dropped = smallest(np.where(kept[k], np.abs(w), np.inf), count)
        stay = kept[k] & ~dropped
        g = gradient(w, x, y)  # at the trained model, before the drop
        grown = smallest(np.where(stay, np.inf, -np.abs(g)), count)
        new_kept.append(stay | grown)
        new_models.append((stay | grown) * w)
    return new_models, new_kept


def test_rounds_are_numpys():
    algorithm, states, infos = played(linear(W0))
    clients = make_clients(SIZES)
    first = ~smallest(np.abs(W0), 6)  # 9 of 15 stay
    models, kept = [first * W0.astype(float)] * 5, [first] * 5
    for t, (before, state, info) in enumerate(
        zip(states, states[1:], infos, strict=False), start=1
    ):
        models, kept = oracle(models, kept, clients, t, before.server)
        mine = state.clients.extra
        np.testing.assert_array_equal(mine.masks["params"]["w"], kept)
        np.testing.assert_allclose(mine.variables["params"]["w"], models, atol=1e-5)
        # The model of nobody: the mean over holders, by examples.
        sizes = np.array(SIZES)[:, None, None]
        total, holders = (sizes * np.array(models)).sum(0), (sizes * kept).sum(0)
        np.testing.assert_allclose(
            state.variables["params"]["w"], total / np.maximum(holders, 1), atol=1e-5
        )
        # Two neighbours, down and up, with 9 weights each.
        assert info.bytes_down.tolist() == info.bytes_up.tolist() == [2 * 4 * 9] * 5
    assert len({mask.tobytes() for mask in kept}) > 1
    model = algorithm.client_model(states[-1], jnp.int32(3))
    np.testing.assert_allclose(model["params"]["w"], models[3], atol=1e-5)


def test_layers_keep_their_sizes_and_weights_are_zero_elsewhere():
    _, states, _ = played(MLP)
    first, last = states[0].clients.extra, states[-1].clients.extra
    for (name, before), (_, after) in zip(
        trees.named_leaves(first.masks), trees.named_leaves(last.masks), strict=True
    ):
        axes = tuple(range(1, before.ndim))
        np.testing.assert_array_equal(before.sum(axes), after.sum(axes), err_msg=name)
    masked = jax.tree.map(np.multiply, last.masks, last.variables)
    chex.assert_trees_all_equal(masked, last.variables)


def test_neighbours_are_others_distinct_and_drawn_anew():
    draws = [
        neighbours_of(jnp.uint32(7), t, k, 6, 3).tolist()
        for t in range(1, 9)
        for k in range(6)
    ]
    for number, ids in enumerate(draws):
        assert len(set(ids)) == 3 and number % 6 not in ids
        assert set(ids) <= set(range(6))
    assert len({tuple(sorted(ids)) for ids in draws[::6]}) > 2
    assert {k for ids in draws[::6] for k in ids} == {1, 2, 3, 4, 5}


def test_clients_that_take_no_part_stay_and_can_be_neighbours():
    _, states, infos = played(linear(W0), participation=0.4, neighbours=10)
    for before, after, info in zip(states, states[1:], infos, strict=False):
        away = np.setdiff1d(np.arange(5), info.cohort)
        old, new = (trees.take(s.clients.extra, away) for s in (before, after))
        chex.assert_trees_all_equal(old, new)
        assert info.bytes_down.tolist() == [4 * 4 * 9] * 2  # all four others


def test_no_neighbours_are_refused():
    with pytest.raises(ValueError, match="neighbours is 0: it must be at least 1"):
        algorithms.dispfl(MLP.apply, neighbours=0)

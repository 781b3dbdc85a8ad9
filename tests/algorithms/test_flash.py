"""FLASH: moves, counts and rounds against NumPy."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_clients
from toy import MLP, context_of, merged, round_keys, run_rounds, uploads_of

from fedsparsify_jax import algorithms, masks
from fedsparsify_jax.algorithms.flash import Layers, joint, moved
from fedsparsify_jax.pruning import saliency

ENGINE = {"learning_rate": 0.3, "local_epochs": 2, "batch_size": 3}
LAYERS = Layers(None)


def shared_out(number, shares, room):
    """Whole numbers in proportion, by filling one after another."""
    counts, open_ = np.zeros(len(room), int), set(range(len(room)))
    while open_:
        left = number - counts.sum()
        total = sum(shares[i] for i in open_)
        exact = {i: left * shares[i] / total for i in open_}
        full = {i for i in open_ if exact[i] >= room[i]}
        if not full:
            break
        for i in full:
            counts[i] = room[i]
        open_ -= full
    for i in open_:
        counts[i] = int(np.floor(exact[i] + 1e-4))
    for i in range(len(room)):
        counts[i] += min(number - counts.sum(), room[i] - counts[i])
    return counts


def numpy_move(w, mask, scores, rate):
    """All layers: the smallest go, random ones come where weights are large."""
    kept = {n: int(m.sum()) for n, m in mask.items()}
    dropped = {n: int(np.floor(np.float32(rate) * kept[n])) for n in kept}
    strength = [np.abs(w[n])[mask[n]].mean() if kept[n] else 0.0 for n in kept]
    room = [mask[n].size - kept[n] + dropped[n] for n in kept]
    grown = shared_out(sum(dropped.values()), strength, room)
    new = {}
    for name, more in zip(kept, grown, strict=True):
        flat, size = mask[name].ravel(), np.abs(w[name]).ravel()
        stay = sorted(np.flatnonzero(flat), key=lambda i, s=size: (-s[i], i))
        stay = stay[: kept[name] - dropped[name]]
        free = sorted(set(range(flat.size)) - set(stay))
        draw = scores[name].ravel()
        order = sorted(free, key=lambda i, s=draw: (-s[i], i))
        result = np.zeros(flat.size, bool)
        result[[*stay, *order[:more]]] = True
        new[name] = result.reshape(mask[name].shape)
    return new


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("density", [0.2, 0.7, 0.95])
def test_a_move_is_numpys(rate, density):
    rng = np.random.default_rng(5)
    shapes = {"a": (4, 6), "b": (6, 5), "c": (3, 7)}
    w, m = {}, {}
    for scale, (name, shape) in enumerate(shapes.items(), start=1):
        m[name] = rng.random(shape) < density
        w[name] = (scale * rng.normal(size=shape) * m[name]).astype(np.float32)
    key = jax.random.key(3)
    scores = jax.tree.map(np.asarray, saliency.random(jax.random.clone(key), w))
    variables, mask = (jax.tree.map(jnp.asarray, tree) for tree in (w, m))
    new = jax.jit(moved, static_argnums=4)(key, variables, mask, rate, LAYERS)
    chex.assert_trees_all_equal(new, numpy_move(w, m, scores, rate))
    total = sum(int(leaf.sum()) for leaf in m.values())
    assert sum(int(leaf.sum()) for leaf in new.values()) == total


def test_vectors_are_kept_and_count_against_the_budget():
    variables = {"w": jnp.zeros((4, 5)), "b": jnp.zeros(4)}
    assert int(LAYERS.budget(variables, 0.5)) == 12 - 4
    tree = LAYERS.tree(jnp.array([8]), variables)
    assert {name: int(count) for name, count in tree.items()} == {"w": 8, "b": 4}


def test_the_joint_mask_keeps_the_largest_of_the_mean_at_the_mean_counts():
    """Clients of weights 1 and 3 keep 4 and 8 of the first layer's 12, of 20 in all.

    The mean count is 7, and 5 of the other layer's 8: 12 of 20 again.
    """
    rng = np.random.default_rng(0)
    held = {"a": np.zeros((2, 3, 4), bool), "b": np.zeros((2, 2, 4), bool)}
    for client, (a, b) in enumerate([(4, 8), (8, 4)]):
        held["a"][client].ravel()[rng.permutation(12)[:a]] = True
        held["b"][client].ravel()[rng.permutation(8)[:b]] = True
    w = {n: (rng.normal(size=m.shape) * m).astype(np.float32) for n, m in held.items()}
    stacked, kept = (jax.tree.map(jnp.asarray, tree) for tree in (w, held))
    start = jax.tree.map(lambda leaf: leaf[0], stacked)
    context = context_of(start)._replace(sparsity=jnp.float32(0.4))
    uploads = uploads_of(stacked, kept, [1, 3])
    variables, new = merged(joint(LAYERS), uploads, context)
    for name, count in {"a": 7, "b": 5}.items():
        mean = 0.25 * w[name][0] + 0.75 * w[name][1]
        order = np.argsort(-np.abs(mean).ravel(), kind="stable")[:count]
        expected = np.zeros(mean.size, bool)
        expected[order] = True
        np.testing.assert_array_equal(new[name].ravel(), expected)
        np.testing.assert_allclose(
            variables[name].ravel(), mean.ravel() * expected, rtol=1e-6
        )


def test_what_a_full_layer_cannot_take_goes_to_the_others():
    """The pitfall of the authors' code: a density cut off at 1 misses the target."""
    held = {"a": np.ones((1, 2, 2), bool), "b": np.zeros((1, 4, 4), bool)}
    held["b"][0, 0, :2] = True
    stacked = jax.tree.map(lambda m: jnp.asarray(m, jnp.float32), held)
    context = context_of(jax.tree.map(lambda leaf: leaf[0], stacked))
    context = context._replace(sparsity=jnp.float32(0.25))  # 15 of 20, and 6 are held
    uploads = uploads_of(stacked, jax.tree.map(jnp.asarray, held), [1])
    _, new = merged(joint(LAYERS), uploads, context)
    assert {name: int(leaf.sum()) for name, leaf in new.items()} == {"a": 4, "b": 11}


def played(clients, rounds=3, sparsity=0.5, **options):
    options = {**ENGINE, "setup_epochs": 3, "setup_share": 0.5, **options}
    algorithm = algorithms.flash(MLP.apply, final_sparsity=sparsity, **options)
    start = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    return run_rounds(jax.jit(algorithm.step), start, clients, round_keys(rounds))


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("stage", ["spdst", "jmwst"])
def test_every_round_meets_the_target_exactly(stage, sparsity, clients):
    states, infos = played(clients, sparsity=sparsity, stage_two=stage)
    # 7 biases of the 39 parameters stay, whatever the sparsity.
    kept = max(39 - int(np.floor(sparsity * 39)), 7)
    for state in states[1:]:
        assert sum(int(leaf.sum()) for leaf in jax.tree.leaves(state.masks)) == kept
        pruned = masks.apply(state.masks, state.variables)
        chex.assert_trees_all_equal(pruned, state.variables)
    if stage == "spdst":
        for state in states[2:]:
            chex.assert_trees_all_equal(state.masks, states[1].masks)
    assert infos[0].setup_up.tolist() == [4 * 2] * 2  # a number of each layer
    assert infos[0].setup_down.tolist() == [4 * kept] * 2
    assert infos[1].setup_up.tolist() == [0, 0]


def test_without_moves_layers_keep_what_they_started_with(clients):
    """p = 0: every client's counts are those of the even mask, and so is their mean."""
    states, _ = played(clients, alpha=0.0)
    # 39 - floor(39 / 2) - 7 = 13 of 20 + 12 weights, of which floor(8.125) + 1.
    counts = [int(leaf.sum()) for leaf in jax.tree.leaves(states[1].masks)]
    assert counts == [4, 9, 3, 4]


def test_stage_one_moves_weights_between_layers(clients):
    """The densities are those of the clients: a large rate moves many."""
    even = played(clients, rounds=1, alpha=0.0)[0][-1]
    moves = played(clients, rounds=1, alpha=0.9, setup_epochs=6)[0][-1]
    counts = [
        [int(leaf.sum()) for leaf in jax.tree.leaves(state.masks)]
        for state in (even, moves)
    ]
    assert counts[0] != counts[1] and sum(counts[0]) == sum(counts[1])


def test_masks_move_in_every_ath_round_alone(clients):
    states, _ = played(clients, rounds=4, stage_two="jmwst", interval=2, alpha=0.9)
    moves = [
        not all(map(np.array_equal, *map(jax.tree.leaves, (a.masks, b.masks))))
        for a, b in itertools.pairwise(states[1:])
    ]
    assert moves == [False, True, False]  # rounds 2, 3, 4


def test_an_empty_client_has_no_say_before_round_1():
    """All of them train, those without examples at no weight."""
    two, four = make_clients((4, 3)), make_clients((4, 3, 0, 0))
    states = [played(data, rounds=1, setup_share=1.0)[0][-1] for data in (two, four)]
    chex.assert_trees_all_equal(states[0].masks, states[1].masks)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stage_two": "both"}, "unknown stage_two 'both': 'spdst' or 'jmwst'"),
        ({"setup_share": 0.0}, "setup_share is 0.0: it must be above 0 and at most 1"),
        ({"setup_epochs": 1}, "setup_epochs is 1: it must be at least 2"),
        ({"adjust_after": 1}, 'adjust_after goes with stage_two="jmwst" only'),
        (
            {"stage_two": "jmwst", "adjust_after": 3},
            "adjust_after is 3: it must be from 0 to local_epochs, 2",
        ),
        (
            {"stage_two": "jmwst", "powerprop": 1.5},
            "powerprop does not go with weights that are grown",
        ),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        algorithms.flash(MLP.apply, **ENGINE | options)

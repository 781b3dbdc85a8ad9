"""Defences and attacks against NumPy oracles, and one against the other."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import apply_fn, half_square

from fedsparsify_jax import algorithms
from fedsparsify_jax.aggregation import merges, robust
from fedsparsify_jax.algorithms.registry import ALGORITHMS
from fedsparsify_jax.client_map import chunked, device_mesh, sharded
from fedsparsify_jax.engine.wrappers import attacks
from fedsparsify_jax.engine.wrappers.clipping import clipped
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import Context, Upload
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.registry import takers
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.types import ClientData

CLIENTS, ENTRIES = 9, 5


# -- defences: what they should give, written for rows of numbers [m, n]


def oracle_trimmed_mean(rows, weights, share):
    cut = int(share * len(rows) + 1e-4)
    return np.array([np.sort(c)[cut : len(rows) - cut].mean() for c in rows.T])


def oracle_krum_scores(rows, share):
    hostile = int(share * len(rows) + 1e-4)
    near = min(max(len(rows) - hostile - 2, 1), len(rows) - 1)
    scores = []
    for mine, row in enumerate(rows):
        gaps = [((row - other) ** 2).sum() for i, other in enumerate(rows) if i != mine]
        scores.append(sum(sorted(gaps)[:near]))
    return np.array(scores), hostile


def oracle_krum(rows, weights, share):
    return rows[np.argmin(oracle_krum_scores(rows, share)[0])]


def oracle_multi_krum(rows, weights, share):
    scores, hostile = oracle_krum_scores(rows, share)
    return rows[np.argsort(scores)[: len(rows) - hostile]].mean(axis=0)


def oracle_geometric_median(rows, weights, share):
    """By Newton-free brute force: many plain Weiszfeld steps."""
    point = rows.mean(axis=0)
    for _ in range(2000):
        pull = weights / np.maximum(np.linalg.norm(rows - point, axis=1), 1e-12)
        point = pull @ rows / pull.sum()
    return point


ORACLES = {
    "trimmed-mean": oracle_trimmed_mean,
    "krum": oracle_krum,
    "multi-krum": oracle_multi_krum,
    "geometric-median": oracle_geometric_median,
}


def uploads(seed):
    """Clients whose absent ones hold NaN and whose pruned entries hold garbage."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(CLIENTS, ENTRIES)).astype(np.float32)
    kept = rng.random((CLIENTS, ENTRIES)) < 0.8
    weights = rng.integers(1, 9, CLIENTS).astype(np.float32)
    weights[rng.choice(CLIENTS, 2, replace=False)] = 0.0
    here = weights > 0
    rows = np.where(kept, values, 0.0)[here].astype(np.float64)
    values = np.where(here[:, None], values, np.nan)
    split = {"a": values[:, :2], "b": values[:, 2:]}
    masks = {"a": kept[:, :2], "b": kept[:, 2:]}
    return {"params": split}, {"params": masks}, weights, rows


@pytest.fixture(scope="module")
def compiled():
    """One program for each merge, the share traced."""

    def make(name):
        if name not in merges.WITHSTANDING:
            slow = lambda *a, share: robust.geometric_median(*a, iterations=200)
            return jax.jit(slow)
        rule = merges.VALUES[name]
        return jax.jit(lambda *a, share: rule(*a, attackers=share))

    return {name: make(name) for name in ORACLES}


@pytest.mark.parametrize("name", ORACLES)
def test_defences_are_what_their_papers_say(name, compiled):
    previous = {"params": {"a": jnp.zeros(2), "b": jnp.zeros(3)}}
    for seed, share in enumerate((0.0, 0.15, 0.3, 0.45)):
        stacked, masks, weights, rows = uploads(seed)
        with jax.debug_nans(False):
            found = compiled[name](stacked, masks, weights, previous, share=share)
        flat = np.concatenate([found["params"]["a"], found["params"]["b"]])
        wanted = ORACLES[name](rows, weights[weights > 0].astype(float), share)
        np.testing.assert_allclose(flat, wanted, rtol=2e-3, atol=2e-4)


def test_one_client_alone_is_what_everybody_gets(compiled):
    stacked, masks, _weights, _ = uploads(0)
    alone = np.where(np.arange(CLIENTS) == 4, 1.0, 0.0).astype(np.float32)
    stacked = jax.tree.map(lambda a: np.nan_to_num(a, nan=0.5), stacked)
    previous = {"params": {"a": jnp.zeros(2), "b": jnp.zeros(3)}}
    mine = jax.tree.map(lambda a, m: np.where(m, a, 0)[4], stacked, masks)
    for run in compiled.values():
        found = run(stacked, masks, alone, previous, share=0.3)
        chex.assert_trees_all_close(found, mine, rtol=1e-6)


def test_huge_updates_do_not_overflow_into_the_result(compiled):
    stacked, masks, weights, _ = uploads(0)
    weights = np.ones(CLIENTS, np.float32)
    stacked = jax.tree.map(lambda a: np.nan_to_num(a, nan=0.1), stacked)
    for leaf in jax.tree.leaves(stacked):
        leaf[:2] = 3e38
    masks = jax.tree.map(np.ones_like, masks)
    previous = {"params": {"a": jnp.zeros(2), "b": jnp.zeros(3)}}
    for run in compiled.values():
        found = run(stacked, masks, weights, previous, share=0.3)
        assert all(np.abs(leaf).max() < 4 for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("norm", [0.5, 2.0, 1e6])
def test_clipping_is_of_the_update_and_keeps_pruned_entries_zero(norm):
    rng = np.random.default_rng(0)
    kept = np.array([True, True, False, True])
    start = rng.normal(size=4).astype(np.float32)
    sent = np.where(kept, rng.normal(size=4), 0.0).astype(np.float32)
    update = np.where(kept, sent - start, 0.0)
    scale = min(1.0, norm / np.linalg.norm(update))
    wanted = np.where(kept, start + scale * update, 0.0)
    found = clipped(
        {"params": jnp.asarray(sent), "stats": jnp.ones(1)},
        {"params": jnp.asarray(kept)},
        {"params": jnp.asarray(start)},
        norm,
    )
    np.testing.assert_allclose(found["params"], wanted, rtol=1e-6)
    assert scale < 1 or np.array_equal(found["params"], sent)
    np.testing.assert_array_equal(found["stats"], [1.0])
    far = {"params": jnp.asarray(sent * 1e30), "stats": jnp.ones(1)}
    far = clipped(
        far, {"params": jnp.asarray(kept)}, {"params": jnp.asarray(start)}, norm
    )
    gap = np.asarray(far["params"]) - np.where(kept, start, 0)
    np.testing.assert_allclose(np.linalg.norm(gap), norm, rtol=1e-3)


# -- attacks


def forged(attack, context_sparsity=0.0):
    start = {"params": {"w": jnp.array([5.0, -1.0, 2.0, 3.0])}, "stats": jnp.ones(1)}
    masks = {
        "params": {"w": jnp.array([True, True, True, False])},
        "stats": jnp.ones(1, bool),
    }
    sent = {"params": {"w": jnp.array([6.0, 0.0, 4.0, 0.0])}, "stats": jnp.ones(1) * 7}
    kept = {
        "params": {"w": jnp.array([True, False, True, False])},
        "stats": jnp.ones(1, bool),
    }
    context = Context((), jnp.float32(context_sparsity), start, masks, (), ())
    return attack.forge(Upload(sent, kept), start, masks, context)


def test_forged_updates():
    # The update is 6 - 5 and 4 - 2; what the client pruned is no part of it.
    turned = forged(attacks.sign_flip(0.3, scale=2.0))
    assert turned.variables["params"]["w"].tolist() == [3.0, 0.0, -2.0, 0.0]
    enlarged = forged(attacks.scaling(0.3, scale=3.0))
    assert enlarged.variables["params"]["w"].tolist() == [8.0, 0.0, 8.0, 0.0]
    for upload in (turned, enlarged):
        assert upload.variables["stats"].tolist() == [7.0]
        assert upload.masks["params"]["w"].tolist() == [True, False, True, False]


def test_poisoned_masks_keep_the_smallest():
    # Half of four may stay, within the round's masks: those of -1 and 2, not of 5.
    upload = forged(attacks.mask_poisoning(0.3), context_sparsity=0.5)
    assert upload.masks["params"]["w"].tolist() == [False, True, True, False]
    assert upload.variables["params"]["w"].tolist() == [0.0, -1.0, 2.0, 0.0]
    assert upload.masks["stats"].tolist() == [True]


@pytest.mark.parametrize("number", [1, 3, 10, 97])
def test_as_many_are_hostile_as_the_share_says(number):
    ids = jnp.arange(number)
    for share in (0.0, 0.1, 0.29, 0.3, 0.5, 1.0):
        bad = attacks.hostile(share, ids)
        assert int(bad.sum()) == int(share * number + 1e-6)
    chosen = ids % 2 == 0
    np.testing.assert_array_equal(
        jax.vmap(lambda i: attacks.hostile(chosen, i))(ids), chosen
    )


# -- one against the other: the clients' targets are close to ONES, hostile ones push
#    away from there. Ten clients, three of them hostile.

ONES = np.ones(6, np.float32)


def federation():
    noise = np.random.default_rng(0).normal(size=(10, 1, 6)) * 0.05
    y = jnp.asarray(np.repeat(ONES + noise, 2, axis=1), jnp.float32)
    return ClientData(jnp.zeros((10, 2, 1)), y, jnp.full(10, 2, jnp.int32))


def error_after_ten_rounds(**options):
    algorithm = algorithms.fedavg(
        apply_fn, loss_fn=half_square, learning_rate=0.2, batch_size=2, **options
    )
    start = {"params": {"w": jnp.zeros(6)}}
    state = algorithm.init(jax.random.key(0), start)

    @jax.jit
    def ten_rounds(state):
        def one(state, t):
            key = jax.random.fold_in(jax.random.key(1), t)
            return algorithm.step(key, state, federation())

        return jax.lax.scan(one, state, jnp.arange(10))[0]

    w = ten_rounds(state).variables["params"]["w"]
    return float(np.max(np.abs(np.asarray(w) - ONES)))


ATTACK = attacks.sign_flip(0.3, scale=5.0)


def test_without_a_defence_the_mean_breaks():
    assert error_after_ten_rounds() < 0.1
    assert error_after_ten_rounds(attack=ATTACK) > 0.9


@pytest.mark.parametrize("merge", ["median", *ORACLES])
def test_defences_hold_where_the_mean_breaks(merge):
    assert error_after_ten_rounds(merge=merge, attack=ATTACK) < 0.3


@pytest.mark.parametrize(
    "strategy",
    [
        chunked(3),
        sharded(device_mesh(jax.devices()[:2])),
    ],
    ids=["chunked", "sharded"],
)
def test_clipping_bounds_what_scaling_can_do(strategy):
    """Streamed too: ten million times the update, ten clients, seven honest."""
    attack = attacks.scaling(0.3, scale=-1e7)
    assert error_after_ten_rounds(attack=attack, client_map=strategy) > 1e3
    held = error_after_ten_rounds(attack=attack, clip_norm=0.5, client_map=strategy)
    assert held < 0.9


def test_flipped_labels_are_trained_on():
    """A client alone with label 0 of three classes, flipped, learns class 2."""

    def logits(variables, x, **_):
        return jnp.broadcast_to(variables["params"]["w"], (len(x), 3)), {}

    clients = ClientData(
        jnp.zeros((1, 2, 1)), jnp.zeros((1, 2), jnp.int32), jnp.array([2])
    )
    for share, learnt in ((0.0, 0), (1.0, 2)):
        attack = attacks.label_flip(share, num_classes=3)
        algorithm = algorithms.fedavg(logits, attack=attack, learning_rate=1.0)
        state = algorithm.init(jax.random.key(0), {"params": {"w": jnp.zeros(3)}})
        state, _ = algorithm.step(jax.random.key(1), state, clients)
        assert int(jnp.argmax(state.variables["params"]["w"])) == learnt


# -- names and options


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: attacks.named("sing-flip", 0.3), "unknown attack 'sing-flip'"),
        (lambda: attacks.named("label-flip", 0.3), "label-flip needs classes"),
        (lambda: attacks.named("label-flip", 0.3, scale=2.0), "has no scale"),
        (lambda: attacks.named("scaling", 1.3), "attackers is 1.3"),
        (lambda: merges.withstanding("median", 0.3), "does not ask"),
        (lambda: merges.withstanding("krum", 0.5), "below 0.5"),
        (lambda: algorithms.fedavg(apply_fn, clip_norm=0.0), "clip_norm is 0.0"),
        (lambda: algorithms.fedavg(apply_fn, merge="kurm"), "unknown merge 'kurm'"),
    ],
)
def test_what_is_wrong_is_named(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attack": "sign-flip"}, "--attackers SHARE go together"),
        ({"attackers": 0.3}, "--attackers SHARE go together"),
        ({"attack": "scalling", "attackers": 0.3}, "scaling"),
        ({"attack": "label-flip", "attackers": 1.1}, "--attackers is 1.1"),
        (
            {"attack": "label-flip", "attackers": 0.1, "attack_scale": 2.0},
            "--attack-scale goes with",
        ),
        (
            {"merge": "median", "assumed_attackers": 0.2},
            "--assumed-attackers goes with",
        ),
        ({"merge": "krum", "assumed_attackers": 0.5}, "--assumed-attackers is 0.5"),
        ({"clip_norm": 0.0}, "--clip-norm is 0.0"),
        ({"faults": "dropout"}, "--faults is 'dropout'"),
    ],
)
def test_options_that_are_wrong_are_named(options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        resolve(TrainConfig(**options))


def test_every_method_with_a_mean_takes_a_merge():
    """The others adjust masks by what they merge, or have a merge that is theirs."""
    adjusting = {"prunefl", "feddst", "rigl", "fedtiny", "fedrts", "flash"}
    over_holders = {"heterofl", "fedrolex", "lotteryfl", "dispfl"}
    of_what_is_sent = {"sparsyfed"}
    without = adjusting | over_holders | of_what_is_sent
    assert set(ALGORITHMS) - set(takers("merge")) == without

"""The engine's option ``privacy``: every algorithm, and all that surrounds a round."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance_build import build as build_row
from conftest import make_clients
from toy import DATA, MLP, START, W, build, round_keys, run

from fedsparsify_jax import client_map, masks, trees
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms import fedsparsify_global
from fedsparsify_jax.engine.halves import no_examples
from fedsparsify_jax.engine.records import RoundKeys
from fedsparsify_jax.engine.wrappers.attacks import scaling
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.engine.wrappers.private import Privacy
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import Method
from fedsparsify_jax.privacy.noise import noise_key

MEAN = Method(aggregate("mean"))
WITHOUT = Privacy(clip_norm=1e6, noise_multiplier=0.0, denominator=4)
NOISY = Privacy(clip_norm=0.5, noise_multiplier=1.0, denominator=4)

# Their rounds release no more than a mean of updates.
PRIVATE = (
    "fedavg, momentum",
    "fedavg, noise",
    "fedprox",
    "fedopt",
    "fedsparsify-global",
    "fedsparsify-global, lars and sam",
    "fedsparsify-global, topk",
    "fedsparsify-global, int4",
    "fedsparsify-global, movement",
    "fedsparsify-plus",
    "random-pruning",
    "one-shot",
    "synflow",
    "static",
    "rigl, set",
    "progfed, one stage",
    "slimmable",
)
# Those of all others do, each with the reason.
REFUSED = {
    "fedsparsify-global, taylor": "send more than their model",
    "fedsparsify-local": "choose masks from their data, which the server counts",
    "fedsparsify-local, no vote": "choose masks from their data",
    "feddst": "choose masks from their data",
    "snip": "first masks come from clients' data",
    "prunefl": "first masks come from clients' data",
    "flash": "first masks come from clients' data",
    "ssfl": "first masks come from clients' data",
    "rigl": "send more than their model",
    "fedtiny": "send more than their model",
    "feddip": "send more than their model",
    "ste": "send more than their model",
    "halo": "train more than the weights",
    "heterofl": "start from models of their own",
    "lotteryfl": "start from models of their own",
    "dispfl": "choose masks from their data",
    "sparsyfed": "no noise is known for a mean of roots",
    "unipts": "after the last round it looks at clients' examples",
}


def rounds_of(algorithm, clients, number=2):
    state = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    step = jax.jit(algorithm.step)
    for key in round_keys(number):
        state, info = step(key, state, clients)
    return state, info


@pytest.mark.parametrize("name", PRIVATE)
def test_private_rounds_of_equal_clients_are_plain_ones_without_noise(name):
    clients = make_clients((4, 4, 4, 4))
    plain, info = rounds_of(build_row(name, model=MLP), clients)
    hidden, same = rounds_of(build_row(name, model=MLP, privacy=WITHOUT), clients)
    chex.assert_trees_all_close(hidden.variables, plain.variables, atol=1e-6)
    chex.assert_trees_all_equal(hidden.masks, plain.masks)
    assert float(info.sparsity) == float(same.sparsity)


@pytest.mark.parametrize(
    "name", ["fedsparsify-global", "fedsparsify-plus", "synflow", "rigl, set"]
)
def test_noise_changes_what_is_kept_and_nothing_else(name):
    clients = make_clients((4, 4, 4, 4))
    one, _ = rounds_of(build_row(name, model=MLP, privacy=NOISY), clients)
    for w, kept in zip(
        jax.tree.leaves(one.variables), jax.tree.leaves(one.masks), strict=True
    ):
        assert (np.asarray(w)[~np.asarray(kept)] == 0).all()
    assert bool(masks.holds(one.masks, one.variables))
    other, _ = rounds_of(build_row(name, model=MLP, privacy=WITHOUT), clients)
    differences = jax.tree.map(
        lambda a, b: jnp.abs(a - b).max(), one.variables, other.variables
    )
    assert max(map(float, jax.tree.leaves(differences))) > 0.01


@pytest.mark.parametrize("name", REFUSED)
def test_releases_without_a_bound_are_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        build_row(name, model=MLP, privacy=NOISY)


def test_a_mean_of_weights_of_powerpropagation_is_private_and_one_of_roots_is_not():
    options = {"powerprop": 1.5, "privacy": WITHOUT}
    with pytest.raises(ValueError, match="mean of roots: use weights"):
        build_row("fedavg", model=MLP, **options)
    build_row("fedavg", model=MLP, **options, powerprop_average="weights")


def test_the_variance_of_a_purged_model_is_that_of_its_noise_alone():
    """Rate 0: the kept entries are start + noise of z C / D = .8 * .5 / 4 = .1."""
    width = 40_000
    start = {"params": {"w": jnp.full(width, 50.0)}}
    privacy = Privacy(clip_norm=0.5, noise_multiplier=0.8, denominator=4)
    algorithm = fedsparsify_global(
        lambda variables, x, **_: (
            jnp.broadcast_to(variables["params"]["w"], (len(x), width)),
            {},
        ),
        rounds=3,
        final_sparsity=0.5,
        learning_rate=0.0,
        local_epochs=1,
        batch_size=1,
        loss_fn=lambda outputs, y: jnp.sum(outputs, axis=-1),
        privacy=privacy,
    )
    state, step = algorithm.init(jax.random.key(0), start), jax.jit(algorithm.step)
    state, info = step(*round_keys(1), state, DATA)
    kept = np.asarray(state.masks["params"]["w"])
    w = np.asarray(state.variables["params"]["w"])
    assert (w[~kept] == 0).all() and float(info.sparsity) == pytest.approx(
        1 - kept.mean(), abs=1e-6
    )
    # Those with the smallest noise were purged: the others and these together are all.
    dense, _ = jax.jit(
        build(
            MEAN, privacy=privacy, learning_rate=0.0, loss_fn=lambda o, y: o.sum(-1)
        ).step
    )(*round_keys(1), algorithm.init(jax.random.key(0), start), DATA)
    noise = np.asarray(dense.variables["params"]["w"]) - 50.0
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    np.testing.assert_array_equal(w[kept], noise[kept] + np.float32(50.0))


@pytest.mark.parametrize("faults", [Faults(dropout=1.0), Faults(broken=1.0)])
def test_a_round_that_no_upload_survives_has_its_noise_all_the_same(faults):
    """The model moves by noise alone, and so does its average."""
    privacy = Privacy(clip_norm=0.5, noise_multiplier=1.0, denominator=2)
    with jax.debug_nans(False):
        algorithm, state, info = run(
            MEAN, privacy=privacy, faults=faults, server_ema=0.5
        )
        _, quiet, _ = run(MEAN, faults=faults)
    assert int(info.merged) == 0
    moved = np.asarray(state.variables["params"]["w"]) - W
    assert (moved != 0).all() and np.abs(moved).max() < 5 * 0.25
    np.testing.assert_array_equal(np.asarray(quiet.variables["params"]["w"]), W)
    average = np.asarray(algorithm.model(state)["params"]["w"])
    np.testing.assert_array_equal(average, state.variables["params"]["w"])


def test_hostile_and_compressed_uploads_move_the_model_by_no_more_than_the_norm():
    """Of two clients, whose denominator is 2; one sends a million times its update."""
    privacy = Privacy(clip_norm=0.05, noise_multiplier=0.0, denominator=2)
    hostile = scaling(jnp.array([False, True]), scale=1e6)
    for more in ({}, {"upload_compression": "int8"}, {"wire_values": "bfloat16"}):
        _, state, _ = run(MEAN, privacy=privacy, attack=hostile, **more)
        start = W.astype(np.float32)  # which bfloat16 has
        moved = np.asarray(state.variables["params"]["w"]) - start
        assert 0 < np.linalg.norm(moved) <= 0.05 * 1.0001


def test_numbers_of_the_mechanism_may_be_traced():
    def moved(clip, noise):
        privacy = Privacy(clip_norm=clip, noise_multiplier=noise, denominator=2)
        algorithm = build(MEAN, privacy=privacy)
        state = algorithm.init(jax.random.key(0), START)
        return algorithm.step(jax.random.key(1), state, DATA)[0].variables

    clips, noises = jnp.array([0.5, 0.25]), jnp.array([1.0, 2.0])
    both = jax.jit(jax.vmap(moved))(clips, noises)
    for n in range(2):
        one = jax.jit(moved)(clips[n], noises[n])
        chex.assert_trees_all_close(trees.take(both, n), one, rtol=1e-6)


def test_a_round_in_halves_has_the_bits_of_step():
    clients = make_clients()
    number = len(clients.sizes)
    algorithm = build_row(
        "fedsparsify-global",
        model=MLP,
        privacy=NOISY,
        client_map=client_map.chunked(1),
    )
    halves = algorithm.halves
    whole = apart = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    step, client = jax.jit(algorithm.step), jax.jit(halves.client)
    ids, everyone = jnp.arange(number, dtype=jnp.int32), jnp.ones(number, bool)
    for key in round_keys(2):
        whole, _ = step(key, whole, clients)
        nobody = no_examples(trees.take(clients, 0))
        context = jax.jit(halves.open)(key, apart, nobody)
        kept = halves.keep(apart.variables)
        results = [
            client(key, context, ids[k], trees.take(clients, k), kept)
            for k in range(number)
        ]
        stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *results)
        apart, _ = jax.jit(halves.merge)(
            key, apart, context, ids, clients.sizes, everyone, stacked
        )
        chex.assert_trees_all_equal(apart.variables, whole.variables)
        chex.assert_trees_all_equal(apart.masks, whole.masks)


def test_no_seed_of_noise_is_that_of_another_round_or_of_anything_else():
    """Keys of 200 rounds of two runs, and of all parts and clients of each."""
    rows = []
    for seed in (0, 1):
        for key in round_keys(200, seed=seed):
            keys = RoundKeys.of(jax.random.clone(key))
            rows.append(jax.random.key_data(noise_key(keys.server)))
            clients = jax.vmap(jax.random.fold_in, (None, 0))(
                keys.local, jnp.arange(20)
            )
            rows += list(jax.random.key_data(clients))
            rows += [jax.random.key_data(k) for k in (*keys, key)]
            rows += list(jax.random.key_data(jax.random.split(keys.server, 4)))
    seeds = {tuple(np.asarray(row).tolist()) for row in rows}
    assert len(seeds) == len(rows) == 2 * 200 * (1 + 20 + 6 + 4)


def test_models_with_running_statistics_are_refused():
    algorithm = build(MEAN, privacy=NOISY)
    variables = START | {"batch_stats": {"mean": jnp.zeros(2)}}
    state = algorithm.init(jax.random.key(0), variables)
    with pytest.raises(InputError, match="has 'batch_stats' as well"):
        algorithm.step(jax.random.key(0), state, DATA)

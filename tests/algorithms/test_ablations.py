"""The paper's ablations: no vote, other merges, fine-tuning, biases left alone."""

import itertools
import math
from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import numpy_federation as oracle
import optax
import pytest
from oracle_draws import to_layers
from toy import MLP, mean, run_rounds, sending, serving

from fedsparsify_jax import aggregation, algorithms, masks, models, pruning, trees
from fedsparsify_jax.aggregation import merges
from fedsparsify_jax.engine import engine
from fedsparsify_jax.engine.sampling import client_keys
from fedsparsify_jax.method import Context, GradientTransform, Method, Upload
from fedsparsify_jax.schedules import constant
from fedsparsify_jax.training.local import batch_loss, local_training

RATE, EPOCHS, FINAL = 0.3, 2, 0.6
GLOBAL, LOCAL = algorithms.fedsparsify_global, algorithms.fedsparsify_local


def play(builder, clients, rounds, /, *, model=MLP, **options):
    """States, the first included, and infos; a batch holds a whole client."""
    settings = {"local_epochs": EPOCHS, "batch_size": 8, "learning_rate": RATE}
    algorithm = builder(
        model.apply, num_clients=len(clients.sizes), **settings | options
    )
    state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(2), rounds)
    return run_rounds(jax.jit(algorithm.step), state, clients, keys)


def trained(layers, kept, clients, client, epochs):
    """The NumPy oracle's layers of one client after some epochs of one batch each."""
    count = int(clients.sizes[client])
    x, y = np.float64(clients.x[client, :count]), np.asarray(clients.y[client, :count])
    still = [(np.zeros_like(w), np.zeros_like(b)) for w, b in layers]
    orders = [np.arange(count)] * epochs
    return oracle.train(layers, kept, x, y, orders, 8, RATE, 0.0, still)[0]


class Normed(nn.Module):
    """5-4-3 with a norm between: 32 kernel entries, 7 biases, 8 norm parameters."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dense(3)(nn.relu(x))


@pytest.mark.parametrize("builder", [GLOBAL, LOCAL])
def test_kernels_only_spares_vectors_and_reports_the_sparsity_of_kernels(
    builder, clients
):
    states, infos = play(
        builder,
        clients,
        2,
        model=models.from_linen(Normed(), (5,)),
        final_sparsity=FINAL,
        rounds=2,
        prunable=masks.kernels_only,
    )
    found = dict(trees.named_leaves(states[-1].masks))
    kernels = {name: leaf for name, leaf in found.items() if name.endswith("kernel")}
    assert sum(leaf.size for leaf in kernels.values()) == 32
    assert sum(leaf.size for leaf in found.values()) == 32 + 7 + 8 + 8
    for name in found.keys() - kernels.keys():
        assert bool(found[name].all()), name
    kept = sum(int(leaf.sum()) for leaf in kernels.values())
    assert float(infos[-1].sparsity) == pytest.approx(1 - kept / 32, abs=1e-7)
    if builder is GLOBAL:
        assert kept == 32 - math.floor(FINAL * 32)
    scale = states[-1].variables["params"]["BatchNorm_0"]["scale"]
    assert np.all(np.asarray(scale) != 0)


def test_kernels_only_goes_by_the_last_name_inside_params():
    for name in ("params/Dense_0/kernel", "params/w", "params/scale/kernel"):
        assert masks.kernels_only(name)
    for name in ("params/Dense_0/bias", "params/bn/gamma", "params/LayerNorm/Scale"):
        assert not masks.kernels_only(name)
    for name in ("batch_stats/bn/mean", "kernel", "params_ema/kernel"):
        assert not masks.kernels_only(name)


@pytest.mark.parametrize(
    ("builder", "options"),
    [(GLOBAL, {}), (LOCAL, {}), (LOCAL, {"vote_rule": "none"})],
    ids=["global", "local", "no-vote"],
)
def test_the_last_rounds_tune_under_the_final_masks(builder, options, clients):
    rounds, tuning = 5, 2
    states, infos = play(
        builder,
        clients,
        rounds,
        final_sparsity=FINAL,
        rounds=rounds,
        fine_tune_rounds=tuning,
        **options,
    )
    targets = [float(info.target_sparsity) for info in infos]
    assert targets[0] < targets[1] < targets[2]
    np.testing.assert_allclose(targets[2:], FINAL, rtol=1e-6)
    if builder is GLOBAL:
        assert round(float(infos[2].sparsity) * 39) == math.floor(FINAL * 39)
    assert float(infos[1].sparsity) < float(infos[2].sparsity)
    for before, after in itertools.pairwise(states[3:]):
        chex.assert_trees_all_equal(before.masks, after.masks)
        old, new = (
            oracle.flatten(to_layers(before.variables)),
            oracle.flatten(to_layers(after.variables)),
        )
        kept = oracle.flatten(to_layers(after.masks)) > 0
        assert np.mean(old[kept] != new[kept]) > 0.5
        assert not new[~kept].any()


@pytest.mark.parametrize("merge", ["mean", "median"])
def test_local_without_the_vote_against_numpy(merge, clients):
    states, _ = play(
        LOCAL,
        clients,
        3,
        final_sparsity=FINAL,
        rounds=3,
        vote_rule="none",
        merge=merge,
    )
    layers, kept = to_layers(states[0].variables), to_layers(states[0].masks)
    weights = np.asarray(clients.sizes, float)
    for t, state in enumerate(states[1:], start=1):
        sparsity = FINAL * (1 - (1 - (t - 1) / 2) ** 3)
        own_masks, own = [], []
        for client in range(4):
            local = trained(layers, kept, clients, client, EPOCHS)
            own_masks.append(oracle.keep_largest(local, kept, sparsity))
            own.append(oracle.apply_masks(local, own_masks[-1]))
        union = np.max([oracle.flatten(mask) for mask in own_masks], axis=0)
        flat = [oracle.flatten(one) for one in own]
        merged = (
            np.median(flat, axis=0)
            if merge == "median"
            else np.average(flat, axis=0, weights=weights)
        )
        layers, kept = (oracle.unflatten(one, layers) for one in (merged, union))
        found = oracle.flatten(to_layers(state.masks))
        np.testing.assert_array_equal(found, union)
        found = oracle.flatten(to_layers(state.variables))
        np.testing.assert_allclose(found, merged, atol=2e-5)
    assert 1 - union.mean() < FINAL  # the clients disagreed


@pytest.mark.parametrize("merge", ["tanh", "absolute-maximum"])
def test_global_merges_by_name_then_purges(merge, clients):
    states, infos = play(GLOBAL, clients, 1, schedule=constant(FINAL), merge=merge)
    layers, kept = to_layers(states[0].variables), to_layers(states[0].masks)
    local = [
        oracle.flatten(trained(layers, kept, clients, client, EPOCHS))
        for client in range(4)
    ]
    if merge == "tanh":
        gaps = oracle.flatten(layers) - np.array(local)
        z = (gaps - gaps.mean(axis=0)) / (np.std(gaps, axis=0, ddof=-1) + 1e-3)
        a = np.tanh(0.25 * np.abs(z))
        merged = oracle.flatten(layers) - (a * gaps).sum(axis=0) / a.sum(axis=0)
    else:
        merged = np.array(local)[np.argmax(np.abs(local), axis=0), np.arange(39)]
    merged = oracle.unflatten(merged, layers)
    mask = oracle.keep_largest(merged, kept, FINAL)
    expected = oracle.flatten(oracle.apply_masks(merged, mask))
    found = oracle.flatten(to_layers(states[-1].variables))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert round(float(infos[0].sparsity) * 39) == math.floor(FINAL * 39)


def test_a_merge_may_be_a_function(clients):
    frozen = partial(merges.pseudo_gradient, eta=0.0)
    states, _ = play(GLOBAL, clients, 1, rounds=2, merge=frozen)
    chex.assert_trees_all_equal(states[0].variables, states[1].variables)


def test_local_fine_tuning_changes_weights_inside_the_new_masks_only(clients):
    # The model of a federation of one client is what that client uploads.
    alone = trees.take(clients, jnp.array([0]))
    options = {"schedule": constant(FINAL)}
    (_, pruned), _ = play(LOCAL, alone, 1, **options)
    (start, tuned), _ = play(LOCAL, alone, 1, fine_tune_epochs=3, **options)
    chex.assert_trees_all_equal(pruned.masks, tuned.masks)
    kept = oracle.flatten(to_layers(tuned.masks)) > 0
    assert kept.sum() == 39 - math.floor(FINAL * 39)
    before = oracle.flatten(to_layers(pruned.variables))
    after = oracle.flatten(to_layers(tuned.variables))
    assert not after[~kept].any()
    assert np.mean(before[kept] != after[kept]) > 0.5

    ones = to_layers(start.masks)
    local = trained(to_layers(start.variables), ones, alone, 0, EPOCHS)
    mask = oracle.keep_largest(local, ones, FINAL)
    local = trained(oracle.apply_masks(local, mask), mask, alone, 0, 3)
    np.testing.assert_allclose(after, oracle.flatten(local), atol=2e-5)


def test_with_nothing_pruned_fine_tuning_is_that_many_epochs_more(clients):
    options = {"momentum": 0.9, "optimizer_state": "kept"}
    (*_, more), more_infos = play(
        LOCAL, clients, 2, final_sparsity=0.0, fine_tune_epochs=1, **options
    )
    (*_, plain), infos = play(
        algorithms.fedavg, clients, 2, **options | {"local_epochs": EPOCHS + 1}
    )
    chex.assert_trees_all_close(more.variables, plain.variables, atol=1e-5)
    chex.assert_trees_all_close(more.clients, plain.clients, atol=1e-5)
    for found, expected in zip(more_infos, infos, strict=True):
        assert float(found.loss) == pytest.approx(float(expected.loss), abs=1e-5)


def scans(builder, clients, **options):
    """How many loops the program of a round has."""
    algorithm = builder(MLP.apply, **options)
    state = algorithm.init(jax.random.key(0), MLP.init(jax.random.key(1)))
    step = jax.make_jaxpr(algorithm.step)(jax.random.key(2), state, clients)
    return str(step).count("scan[")


def test_without_fine_tuning_the_program_has_no_loop_more(clients):
    dense = scans(algorithms.fedavg, clients)
    purging = scans(LOCAL, clients, fine_tune_epochs=0)
    assert purging == dense + 1  # the search for the threshold
    assert scans(LOCAL, clients, fine_tune_epochs=1) == purging + dense


def test_without_fine_tuning_a_round_is_train_purge_vote_bit_for_bit(clients):
    """The round as it was before the option, from the parts of the library."""
    method = Method(aggregate=mean)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    loss = batch_loss(MLP.apply, cross_entropy)
    train = local_training(loss, optax.sgd(RATE), method, epochs=EPOCHS, batch_size=3)

    @jax.jit
    def replay(key, state):
        context = Context(
            jnp.int32(1), jnp.float32(FINAL), state.variables, state.masks, (), ()
        )

        def one(key, data):
            train_key, _, _ = jax.random.split(key, 3)
            optimizer = optax.sgd(RATE).init(state.variables["params"])
            variables = train(
                train_key, state.variables, state.masks, optimizer, data, context
            ).variables
            scores = pruning.magnitude(variables)
            kept = pruning.prune(scores, jnp.float32(FINAL), within=state.masks)
            return masks.apply(kept, variables), kept

        _, _, local_key, _ = jax.random.split(key, 4)
        keys = client_keys(local_key, jnp.arange(4))
        variables, kept = jax.vmap(one)(keys, clients)
        weights = clients.sizes.astype(jnp.float32)
        return aggregation.majority_vote_mean(variables, kept, weights)

    (start, after), _ = play(
        LOCAL, clients, 1, schedule=constant(FINAL), batch_size=3, fine_tune_epochs=0
    )
    with jax.debug_key_reuse(False):  # to replay the round is to use its key again
        variables, kept = replay(jax.random.split(jax.random.key(2), 1)[0], start)
    chex.assert_trees_all_equal(after.variables, variables)
    chex.assert_trees_all_equal(after.masks, kept)


def drawing_model(variables, x, *, train=False, key=None, valid=None):
    """Writes the random numbers of its training steps down, the latest first."""
    past = variables["draws"]["past"]
    past = jnp.concatenate([jax.random.uniform(key, (1,)), past[:-1]])
    return x @ variables["params"]["w"], {"draws": {"past": past}}


def test_fine_tuning_draws_anew_and_goes_on_with_memory(clients):
    def gradient(grad_fn, variables, memory, context):
        value, gradients = grad_fn(variables)
        return value, gradients, memory + 1

    def send(key, local, context, client):
        return Upload(local.variables, local.masks, local.memory), client.state

    method = Method(
        aggregate=mean,
        fine_tune_epochs=3,
        gradient=GradientTransform(lambda variables: jnp.int32(10), gradient),
        upload=sending(send),
        server=serving(
            lambda k, v, m, uploads, c: (v, m, uploads.extra[0]),
            lambda variables, kept: jnp.int32(0),
        ),
    )
    algorithm = engine(drawing_model, method, local_epochs=2, batch_size=8)
    variables = {"params": {"w": jnp.zeros((5, 3))}, "draws": {"past": jnp.zeros(6)}}
    alone = trees.take(clients, jnp.array([0]))
    state = algorithm.init(jax.random.key(0), variables)
    state, _ = jax.jit(algorithm.step)(jax.random.key(1), state, alone)
    assert int(state.server) == 10 + 2 + 3
    draws = np.asarray(state.variables["draws"]["past"])
    assert len(set(draws.tolist())) == 6
    assert draws[5] == 0.0


@pytest.mark.parametrize(
    ("builder", "options", "message"),
    [
        (LOCAL, {"fine_tune_epochs": -1}, "fine_tune_epochs is -1"),
        (LOCAL, {"fine_tune_rounds": -1}, "fine_tune_rounds is -1"),
        (GLOBAL, {"rounds": 5, "fine_tune_rounds": 5}, "must be below rounds=5"),
        (GLOBAL, {"schedule": constant(0.5), "fine_tune_rounds": 1}, "polynomial"),
        (GLOBAL, {"merge": "vote"}, "unknown merge 'vote'"),
        (LOCAL, {"vote_rule": "all"}, "unknown vote rule 'all'"),
    ],
)
def test_bad_options_are_refused_when_building(builder, options, message):
    with pytest.raises(ValueError, match=message):
        builder(MLP.apply, **options)

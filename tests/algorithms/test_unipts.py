"""UniPTS: its three parts against NumPy, and what `finish` hands out."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import MLP, linear, round_keys, run_rounds

from fedsparsify_jax import algorithms, client_map, masks, models, trees
from fedsparsify_jax.algorithms._shared import calibration
from fedsparsify_jax.algorithms._shared.evolution import evolved
from fedsparsify_jax.algorithms._shared.sparse_distillation import (
    Distillation,
    decaying_base,
    distilled,
)
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import Batch
from fedsparsify_jax.pruning.allocation import regrown_counts, regrown_sparsities
from fedsparsify_jax.training.distillation import based_divergence, soft_labels
from fedsparsify_jax.training.statistics import batches_in_order, re_estimated
from fedsparsify_jax.types import ClientData

LENET = [150, 6, 2400, 16, 48000, 120, 10080, 84, 840, 10]
SMALL = {"generations": 2, "post_epochs": 2, "post_batch_size": 4}
ENGINE = {"learning_rate": 0.3, "local_epochs": 2, "batch_size": 3}


class Normed(nn.Module):
    """5-4-3 with batch statistics: 43 parameters, 32 of them in kernels."""

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, valid: Any = None) -> Any:
        x = nn.Dense(4, use_bias=False)(x)
        mask = None if valid is None else valid[:, None]
        x = nn.BatchNorm(use_running_average=not train)(x, mask=mask)
        return nn.Dense(3)(nn.relu(x))


MODEL = models.from_linen(Normed(), (5,))


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# (a) the base-decayed objective


def test_the_base_is_8_times_a_power_of_99_hundredths():
    expected = [8 * 0.99**e for e in range(101)]
    np.testing.assert_allclose(decaying_base(np.arange(101)), expected, rtol=1e-5)
    # At T = 4 the gradient grows from 2.0 to 5.41 in 100 epochs.
    scales = [float(16 / decaying_base(e)) for e in (0, 99)]
    assert scales == pytest.approx([2.0, 5.41], abs=0.005)


@pytest.mark.parametrize("epoch", [0, 50, 99])
def test_its_gradient_is_the_scaled_difference_of_shares(epoch):
    """(T^2 / (B tau)) (softmax(z) - p), also by differences of the loss in NumPy."""
    rng = np.random.default_rng(0)
    z_t, z, temperature = rng.normal(size=(2, 5, 3)) * 3, rng.normal(size=(5, 3)), 4.0
    z_t, tau = z_t[0], 8 * 0.99**epoch
    p = softmax(z_t / temperature)

    def loss(z):
        logs = np.log(softmax(z))
        return temperature**2 / len(z) * np.sum(p * (np.log(p) - logs / tau))

    def ours(z):
        shares = soft_labels(jnp.asarray(z_t, jnp.float32), temperature)
        losses = based_divergence(shares, z, decaying_base(epoch))
        return temperature**2 * jnp.mean(losses)

    value, gradient = jax.value_and_grad(ours)(jnp.asarray(z, jnp.float32))
    assert float(value) == pytest.approx(loss(z), rel=1e-5)
    expected = temperature**2 / (len(z) * tau) * (softmax(z) - p)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    step = np.zeros_like(z)
    step[2, 1] = 1e-5
    slope = (loss(z + step) - loss(z - step)) / 2e-5
    assert slope == pytest.approx(expected[2, 1], rel=1e-5)


# (b) the search


genes = st.lists(st.floats(-5, 5), min_size=10, max_size=10)


@given(genes=genes, sparsity=st.floats(0.05, 0.99))
def test_unclipped_sparsities_have_the_target_on_average(genes, sparsity):
    s = regrown_sparsities(LENET, jnp.array(genes, jnp.float32), sparsity)
    assert np.dot(LENET, s) / sum(LENET) == pytest.approx(sparsity, abs=1e-5)


@given(genes=genes, sparsity=st.floats(0.05, 0.99))
def test_counts_have_the_target_exactly(genes, sparsity):
    counts = regrown_counts(LENET, jnp.array(genes, jnp.float32), sparsity)
    counts = [int(count) for count in counts]
    assert sum(counts) == sum(LENET) - int(np.floor(sparsity * sum(LENET)))
    assert all(0 <= count <= size for count, size in zip(counts, LENET, strict=True))


def test_the_clip_alone_makes_a_small_network_sparser():
    """That is why budgets are scaled: equal genes give small layers too much."""
    s = np.asarray(regrown_sparsities(LENET, jnp.zeros(10), 0.9))
    expected = 0.95 - 0.1 * 0.05 * sum(LENET) / np.array(LENET)
    np.testing.assert_allclose(s, expected, rtol=1e-5)
    assert np.dot(LENET, np.maximum(s, 0)) / sum(LENET) > 0.92


def test_what_clipped_layers_leave_is_shared_in_proportion():
    """Of 1000 weights 100 stay: 10 of the small layer, 5 % and two shares of the rest.

    d N = 50 with thirds: the layer of 10 is full with 10. Of the 90 that are left, 49.5
    are the 5 % of 990; the layers of 490 and 500 have equal shares of the other 40.5.
    """
    counts = regrown_counts([10, 490, 500], jnp.zeros(3), 0.9)
    assert [int(count) for count in counts] == [10, 44, 46]


@pytest.mark.parametrize("sparsity", [0.95, 0.99])
def test_above_90_percent_at_most_half_of_the_rest_is_given_back(sparsity):
    counts = regrown_counts([400, 600], jnp.array([30.0, -30.0]), sparsity)
    kept = 1000 - round(1000 * sparsity)
    assert int(counts[1]) == pytest.approx(600 * (1 - sparsity) / 2, abs=1)
    assert int(counts[0] + counts[1]) == kept


def test_evolution_keeps_the_best_and_finds_better_ones():
    goal = jnp.array([1.0, 2.0, 3.0])
    tried = []

    def fitness(genes):
        jax.debug.callback(lambda g: tried.append(np.array(g)), genes)
        return -jnp.sum((genes - goal[None]) ** 2, axis=1)

    first = 1 + jax.random.uniform(jax.random.key(0), (25, 3))
    best = evolved(jax.random.key(1), first, fitness, generations=25)
    jax.effects_barrier()
    assert [len(genes) for genes in tried] == [25] + 25 * [24]
    every = np.concatenate(tried)
    distances = np.sum((every - np.asarray(goal)) ** 2, axis=1)
    chex.assert_trees_all_equal(best, every[np.argmin(distances)])
    assert distances.min() < 0.1 * distances[:25].min()


def test_without_generations_the_first_of_equals_wins():
    first = jnp.array([[3.0], [1.0], [2.0]])
    best = evolved(jax.random.key(0), first, lambda g: 0 * g[:, 0], generations=0)
    assert best.tolist() == [3.0]


# (c) sparse training


def test_steps_of_sparse_training_are_numpys():
    """Two epochs of one batch on x @ W, with decay, momentum and a cosine rate."""
    rng = np.random.default_rng(1)
    x, w0 = rng.normal(size=(6, 4)), rng.normal(size=(4, 3))
    s = Distillation(
        epochs=2,
        batch_size=6,
        learning_rate=0.5,
        temperature=4.0,
        pruned_decay=0.3,
    )
    p, w, velocity = softmax(x @ w0 / 4), w0.copy(), np.zeros_like(w0)
    for e in range(2):
        order = np.argsort(-np.abs(w).ravel(), kind="stable")
        mask = np.isin(np.arange(12), order[:5]).reshape(4, 3)
        g = x.T @ (16 / (6 * 8 * 0.99**e) * (softmax(x @ (mask * w)) - p))
        g += 0.3 * ~mask * w + 1e-4 * w
        velocity = 0.9 * velocity + g
        w = w - 0.5 / 2 * (1 + np.cos(np.pi * e / 2)) * velocity
    model = linear(jnp.asarray(w0, jnp.float32))
    data = ClientData(
        jnp.asarray(x, jnp.float32), jnp.zeros(6, jnp.int32), jnp.int32(6)
    )
    dense = model.init(jax.random.key(0))
    counts = {"params": {"w": jnp.int32(5)}}
    trained = distilled(model.apply, jax.random.key(1), dense, counts, data, s)
    np.testing.assert_allclose(trained["params"]["w"], w, rtol=1e-4)


def test_statistics_are_the_mean_of_the_batches_whatever_the_momentum():
    rng = np.random.default_rng(2)
    x = rng.normal(3, 2, size=(7, 5)).astype(np.float32)
    variables = MODEL.init(jax.random.key(0))
    data = ClientData(jnp.asarray(x), jnp.zeros(7, jnp.int32), jnp.int32(7))
    new = re_estimated(
        MODEL.apply, jax.random.key(1), variables, batches_in_order(data, 4)
    )
    chex.assert_trees_all_equal(new["params"], variables["params"])
    inputs = x @ np.asarray(variables["params"]["Dense_0"]["kernel"])
    parts = inputs[:4], inputs[4:]
    (stats,) = new["batch_stats"].values()
    for name, of in (("mean", np.mean), ("var", np.var)):
        expected = sum(len(part) * of(part, axis=0) for part in parts) / 7
        np.testing.assert_allclose(stats[name], expected, rtol=1e-3, atol=1e-4)


def test_statistics_that_nothing_changes_and_counters_stay():
    def apply_fn(variables, x, *, train=False, key=None, valid=None):
        counted = variables["state"] | {"count": variables["state"]["count"] + 1}
        return x, {"state": counted}

    old = {"params": {}, "state": {"count": jnp.int32(3), "fixed": jnp.float32(2)}}
    batches = Batch(jnp.ones((2, 1)), None, jnp.ones((2, 1), bool))
    new = re_estimated(apply_fn, jax.random.key(0), old, batches)
    assert int(new["state"]["count"]) == 3 and float(new["state"]["fixed"]) == 2.0


def test_calibration_examples_are_drawn_evenly_and_without_padding(clients):
    whole = calibration.drawn(jax.random.key(0), clients, 100)
    assert int(whole.sizes) == 18
    assert np.abs(whole.x).max() < 10  # padding is huge
    assert len(np.unique(np.asarray(whole.x[:18]), axis=0)) == 18
    keys = jax.random.split(jax.random.key(1), 300)
    draw = jax.jit(jax.vmap(lambda key: calibration.drawn(key, clients, 6).x))
    rows = np.asarray(draw(keys))[..., 0]
    firsts = np.asarray(clients.x[:, 0, 0])
    drawn = [np.mean((rows == first).any(axis=1)) for first in firsts]
    np.testing.assert_allclose(drawn, 6 / 18, atol=0.12)


# the algorithm


def built(model=MODEL, **options):
    return algorithms.unipts(model.apply, **ENGINE | SMALL | options)


def trained(algorithm, clients, model=MODEL, rounds=2):
    state = algorithm.init(jax.random.key(1), model.init(jax.random.key(2)))
    step = jax.jit(algorithm.step)
    return run_rounds(step, state, clients, round_keys(rounds))[0][-1]


@pytest.mark.parametrize(
    "final, prunable", [(0.9, None), (0.5, None), (0.9, masks.kernels_only)]
)
def test_the_model_has_the_sparsity_asked_for_and_fits_the_state(
    final, prunable, clients
):
    algorithm = built(final_sparsity=final, prunable=prunable)
    state = trained(algorithm, clients)
    assert all(mask.all() for mask in jax.tree.leaves(state.masks))
    done = algorithm.finish(jax.random.key(3), state, clients)
    chex.assert_trees_all_equal_shapes_and_dtypes(done, state)
    total = 43 if prunable is None else 32
    leaves = masks.prunable_only(done.masks, prunable)
    assert int(trees.nonzeros(leaves)) == total - int(final * total)
    model = algorithm.model(done)
    chex.assert_trees_all_equal(masks.apply(done.masks, model), model)
    assert np.any(model["batch_stats"]["BatchNorm_0"]["mean"])
    chex.assert_tree_all_finite(model)


def test_at_sparsity_zero_it_is_fedavg(clients):
    algorithm = built(final_sparsity=0.0)
    state = trained(algorithm, clients)
    plain = trained(algorithms.fedavg(MODEL.apply, **ENGINE), clients)
    chex.assert_trees_all_equal(state.variables, plain.variables)
    done = algorithm.finish(jax.random.key(3), state, clients)
    chex.assert_trees_all_equal(done, state)


def test_the_key_decides_and_padding_and_the_strategy_do_not(clients):
    state = trained(built(), clients)
    real = jnp.arange(clients.y.shape[1])[None, :] < clients.sizes[:, None]
    others = clients._replace(x=jnp.where(real[..., None], clients.x, -7e9))
    few = built(calibration_examples=6)
    done = few.finish(jax.random.key(3), state, clients)
    again = few.finish(jax.random.key(3), state, others)
    chex.assert_trees_all_equal(again, done)
    one_by_one = built(calibration_examples=6, client_map=client_map.chunked(1))
    again = one_by_one.finish(jax.random.key(3), state, clients)
    chex.assert_trees_all_close(again.variables, done.variables, atol=1e-5)
    other = few.finish(jax.random.key(4), state, clients)
    means = [s.variables["batch_stats"]["BatchNorm_0"]["mean"] for s in (other, done)]
    assert not np.allclose(*means)


def test_it_starts_from_the_average_where_there_is_one(clients):
    """At no epochs and no search, the model is the pruned average."""
    plain = {"generations": 0, "post_epochs": 0, "final_sparsity": 0.5}
    algorithm = built(MLP, server_ema=0.5, **plain)
    state = trained(algorithm, clients, MLP)
    average = algorithm.model(state)
    assert not np.allclose(
        average["params"]["Dense_0"]["kernel"],
        state.variables["params"]["Dense_0"]["kernel"],
    )
    done = algorithm.finish(jax.random.key(3), state, clients)
    model = algorithm.model(done)
    chex.assert_trees_all_equal(model, masks.apply(done.masks, average))
    for w, kept in zip(*map(jax.tree.leaves, (average, done.masks)), strict=True):
        # Half of each, rounded down; the largest gets the one that is left over.
        assert int(kept.sum()) == {20: 11, 12: 6, 4: 2, 3: 1}[w.size]
        least = np.abs(w)[np.asarray(kept)].min()
        assert np.all(np.abs(w)[~np.asarray(kept)] <= least)


def test_it_wins_back_what_pruning_once_loses():
    """On clusters of ten classes: pruned once to 90 %, and with all that follows."""
    rng = np.random.default_rng(0)
    centres, y = rng.normal(size=(10, 16)), rng.integers(0, 10, (4, 60))
    x = (2 * centres[y] + rng.normal(size=(4, 60, 16))).astype(np.float32)
    clients = ClientData(jnp.asarray(x), jnp.asarray(y), jnp.full(4, 60))
    model = models.build("mlp", input_shape=(16,), num_classes=10, hidden=(32,))
    options = {"learning_rate": 0.1, "batch_size": 20, "local_epochs": 5}
    settings = {"once": (0, 0), "all": (5, 40)}
    finished = {
        name: algorithms.unipts(
            model.apply, generations=search, post_epochs=epochs, **options
        )
        for name, (search, epochs) in settings.items()
    }
    state = trained(finished["all"], clients, model, rounds=5)

    def accuracy(name):
        done = finished[name].finish(jax.random.key(3), state, clients)
        outputs, _ = model.apply(done.variables, clients.x.reshape(-1, 16))
        return float(np.mean(np.argmax(outputs, -1) == y.ravel()))

    assert accuracy("once") + 0.1 < accuracy("all") > 0.85


@pytest.mark.parametrize(
    "name, number, least",
    [
        ("calibration_examples", 0, 1),
        ("generations", -1, 0),
        ("post_epochs", -1, 0),
        ("post_batch_size", 0, 1),
    ],
)
def test_impossible_numbers_are_refused(name, number, least):
    with pytest.raises(ValueError, match=f"{name} is {number}: .* least {least}"):
        built(**{name: number})


def test_numbers_for_targets_are_refused_before_the_first_round(clients):
    algorithm = built()
    state = algorithm.init(jax.random.key(1), MODEL.init(jax.random.key(2)))
    numbers = clients._replace(y=clients.y.astype(jnp.float32))
    with pytest.raises(InputError, match="the targets are numbers"):
        algorithm.step(jax.random.key(0), state, numbers)

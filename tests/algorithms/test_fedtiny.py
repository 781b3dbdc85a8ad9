"""FedTiny's rounds, its blocks and its selection against NumPy."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import round_keys, run_rounds, squared_error

from fedsparsify_jax import algorithms, client_map, models, pruning
from fedsparsify_jax.algorithms._shared import candidates
from fedsparsify_jax.models.ops.batch_norm import MOMENTUM, BatchNorm
from fedsparsify_jax.training.local import epoch_order
from fedsparsify_jax.training.losses import cross_entropy
from fedsparsify_jax.types import ClientData, Cohort

RNG = np.random.default_rng(3)
SHAPES = {"z": (4, 5), "a": (5, 3)}  # the names are not in the order of the layers
START = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}
X, Y = RNG.normal(size=(2, 4, 4)), RNG.normal(size=(2, 4, 3))
SIZES = np.array([4, 3])
MODEL = models.from_functions(
    lambda key: {name: jnp.float32(w) for name, w in START.items()},
    lambda params, x: x @ params["z"] @ params["a"],
)
CLIENTS = ClientData(jnp.float32(X), jnp.float32(Y), jnp.asarray(SIZES))
RATE, EPOCHS, ALPHA, INTERVAL, UNTIL = 0.02, 2, 0.9, 2, 8


def gradients(w, x, y):
    """Of the mean squared distance."""
    error = 2 * (x @ w["z"] @ w["a"] - y) / len(x)
    return {"z": x.T @ error @ w["a"].T, "a": (x @ w["z"]).T @ error}


def largest(scores, allowed, k):
    """The k largest among what is allowed, the first of equal ones: bool array."""
    order = sorted(np.flatnonzero(allowed), key=lambda i: (-abs(scores.ravel()[i]), i))
    chosen = np.zeros(scores.size, bool)
    chosen[order[:k]] = True
    return chosen.reshape(scores.shape)


def numpy_round(w, masks, t, turn):
    """A round: the new weights and masks, and how many gradients a client sends."""
    share = ALPHA / 2 * (1 + np.cos(np.pi * t / UNTIL)) if t < UNTIL else 0
    quota = {}
    for name, m in masks.items():
        k = min(int(share * m.sum()), int((~m).sum()))
        quota[name] = k if t % INTERVAL == 0 and name in turn else 0
    mean = dict.fromkeys(w, 0.0)
    grown = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for x, y, n in zip(X, Y, SIZES, strict=True):
        x, y, local, share = x[:n], y[:n], dict(w), n / SIZES.sum()
        for _ in range(EPOCHS):
            g = gradients(local, x, y)
            local = {name: (local[name] - RATE * g[name]) * masks[name] for name in w}
        g = gradients(local, x, y)
        for name in w:
            mean[name] = mean[name] + share * local[name]
            sent = largest(g[name], ~masks[name], quota[name])
            grown[name] += share * g[name] * sent
    new = {}
    for name, m in masks.items():
        k = quota[name]
        kept = largest(mean[name], m, int(m.sum()) - k)
        new[name] = kept | largest(grown[name], ~m, k)
    return {name: mean[name] * new[name] for name in w}, new, sum(quota.values())


def build(**options: Any):
    plain = {
        "final_sparsity": 0.5,
        "interval": INTERVAL,
        "alpha": ALPHA,
        "adjust_until": UNTIL,
        "allocation": "layer",
        "learning_rate": RATE,
        "local_epochs": EPOCHS,
        "batch_size": 4,
        "loss_fn": squared_error,
    }
    return algorithms.fedtiny(MODEL.apply, **plain | options)


def play(number: int, **options: Any):
    algorithm = build(**options)
    state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    return run_rounds(jax.jit(algorithm.step), state, CLIENTS, round_keys(number))


# Of two blocks the last one, with the layer `a`, goes first.
TURNS: dict[int, list[set[str]]] = {
    1: [{"a", "z"}] * 4,
    2: [{"a"}, {"z"}, {"a"}, {"z"}],
    5: [{"a"}, {"z"}, {"a"}, {"z"}],  # there are two layers alone
}


@pytest.mark.parametrize("blocks", TURNS)
def test_rounds_are_numpys_and_one_block_moves_at_a_time(blocks: int) -> None:
    states, infos = play(9, blocks=blocks)
    counts = {name: int(np.ceil(np.prod(SHAPES[name]) / 2)) for name in SHAPES}
    for t, (old, state, info) in enumerate(
        zip(states[1:], states[2:], infos[1:], strict=False), start=2
    ):
        w, before = old.variables["params"], old.masks["params"]
        turn = TURNS[blocks][t // INTERVAL - 1]
        weights, masks, sent = numpy_round(w, before, t, turn)
        for name in SHAPES:
            after = state.masks["params"][name]
            np.testing.assert_array_equal(after, masks[name])
            assert after.sum() == counts[name]
            new = state.variables["params"][name]
            np.testing.assert_allclose(new, weights[name], rtol=1e-4, atol=1e-6)
            moves = t % INTERVAL == 0 and t < UNTIL and name in turn
            assert np.any(after != before[name]) == moves
            assert not np.any(new[after & ~before[name]])  # grown at zero
        assert info.bytes_up.tolist() == [4 * sum(counts.values()) + 8 * sent] * 2
        assert (sent > 0) == (t in (2, 4, 6))


def test_the_first_masks_keep_the_largest_weights_by_the_allocation() -> None:
    states, infos = play(1, allocation="erk", final_sparsity=0.4)
    counts = pruning.leaf_counts(START, 0.4, scope="erk")
    for name, w in START.items():
        expected = largest(w, np.ones_like(w, bool), int(counts[name]))
        np.testing.assert_array_equal(states[1].masks["params"][name], expected)
    assert infos[0].setup_up.tolist() == infos[0].setup_down.tolist() == []


def test_adjustments_end_at_six_tenths_of_the_rounds() -> None:
    options = {"adjust_until": None, "rounds": 10, "interval": 1, "blocks": 1}
    states, _ = play(8, **options)
    masks = [state.masks["params"]["z"] for state in states[1:]]
    moved = [bool(np.any(a != b)) for a, b in itertools.pairwise(masks)]
    assert moved == [True] * 3 + [False] * 4  # rounds 2 to 5 could; 5 has share 0.06


def test_a_layer_without_gradients_stays_as_it_is() -> None:
    """No example has the first two inputs, and no layer is told to keep others."""
    blind = CLIENTS._replace(x=jnp.zeros_like(CLIENTS.x))
    algorithm = build(interval=1, blocks=1)
    state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    states, _ = run_rounds(jax.jit(algorithm.step), state, blind, round_keys(2))
    for name in SHAPES:
        a, b = (state.masks["params"][name] for state in states[1:])
        np.testing.assert_array_equal(a, b)


class Normed(nn.Module):
    """Weights, batch statistics, weights."""

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, valid: Any = None) -> Any:
        x = nn.Dense(3, use_bias=False)(x)
        return nn.Dense(2)(nn.relu(BatchNorm()(x, train=train, valid=valid)))


NORMED = models.from_linen(Normed(), (4,))


def selected(masks, clients, model=NORMED, batch_size=8, **more: Any):
    options = {
        "apply_fn": model.apply,
        "loss_fn": cross_entropy,
        "batch_size": batch_size,
        "client_map": client_map.vmapped(),
    }
    ids = jnp.arange(len(clients.sizes))
    variables = model.init(jax.random.key(1))
    chosen = candidates.choose(
        jax.random.key(2), variables, masks, Cohort(ids, clients), **options | more
    )
    return variables, *chosen


def labelled(sizes, seed=0):
    rng = np.random.default_rng(seed)
    length = max(sizes)
    x = np.float32(rng.normal(size=(len(sizes), length, 4)) + 2)
    y = rng.integers(0, 2, (len(sizes), length))
    for k, n in enumerate(sizes):
        x[k, n:] = 1e30  # which nothing may look at
    return ClientData(jnp.asarray(x), jnp.asarray(y), jnp.asarray(sizes))


def stacked(*masks):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks)


def everything_but(variables, column):
    """A mask that has no weights for one hidden unit."""
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), variables)
    kernel = masks["params"]["Dense_0"]["kernel"]
    masks["params"]["Dense_0"]["kernel"] = kernel.at[:, column].set(False)
    return masks


@pytest.mark.parametrize("strategy", [client_map.vmapped(), client_map.chunked(1)])
def test_the_statistics_are_the_weighted_mean_of_the_clients(strategy) -> None:
    clients = labelled([5, 8, 2, 0])
    variables = NORMED.init(jax.random.key(1))
    masks = everything_but(variables, 1)
    _, chosen, kept = selected(stacked(masks), clients, client_map=strategy)
    jax.tree.map(np.testing.assert_array_equal, kept, masks)
    kernel = np.float64(variables["params"]["Dense_0"]["kernel"])
    kernel[:, 1] = 0
    np.testing.assert_array_equal(chosen["params"]["Dense_0"]["kernel"], kernel)
    means, squares = 0.0, 0.0
    for x, n in zip(clients.x, clients.sizes, strict=True):
        if n > 0:
            hidden = np.float64(x[:n]) @ kernel
            means += n / 15 * hidden.mean(0)
            squares += n / 15 * hidden.var(0)
    statistics = chosen["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], means, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(statistics["var"], squares, rtol=1e-3, atol=1e-4)


def test_the_later_a_batch_the_more_of_it_is_in_the_statistics() -> None:
    (x,), (y,), _ = labelled([7], seed=4)
    data, key = ClientData(x, y, jnp.int32(7)), jax.random.key(5)
    variables = NORMED.init(jax.random.key(1))
    order_key, _ = jax.random.split(jax.random.clone(key))
    got = candidates.statistics(NORMED.apply, variables, key, data, 3)
    order = epoch_order(order_key, jnp.int32(7), 7)
    kernel = np.float64(variables["params"]["Dense_0"]["kernel"])
    hidden = np.float64(x)[np.asarray(order)] @ kernel
    batches = [hidden[:3], hidden[3:6], hidden[6:]]
    shares = MOMENTUM ** np.array([2.0, 1.0, 0.0])
    expected = np.average([b.mean(0) for b in batches], axis=0, weights=shares)
    mean = got["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, expected, rtol=1e-3, atol=1e-4)


def test_the_candidate_that_fits_the_data_is_chosen() -> None:
    """Classes are told by one input, which two of three candidates do not look at."""
    clients = labelled([6, 8, 3])
    sign = jnp.where(clients.y == 1, 1.0, -1.0)
    clients = clients._replace(x=clients.x.at[..., 2].set(sign))
    variables = NORMED.init(jax.random.key(1))
    params = variables["params"]
    params["Dense_0"]["kernel"] = jnp.zeros((4, 3)).at[2, 0].set(1).at[0, 1].set(1)
    params["Dense_1"]["kernel"] = jnp.array([[-4.0, 4.0], [2.0, -2.0], [0.0, 0.0]])
    model = NORMED._replace(init=lambda key: variables)
    blind, half, good = (everything_but(variables, column) for column in (0, 0, 1))
    for place in range(3):
        masks = [blind, half]
        masks.insert(place, good)
        _, _, kept = selected(stacked(*masks), clients, model=model)
        jax.tree.map(np.testing.assert_array_equal, kept, good)


def test_every_client_has_one_vote_also_without_statistics() -> None:
    """The mean of the clients' losses, not of their examples, decides."""
    model = models.from_functions(
        lambda key: {"w": jnp.array([1.0, 1.0])},
        lambda params, x: jnp.stack([x @ params["w"], 0 * x[:, 0]], axis=1),
    )
    masks = {"params": {"w": jnp.array([[True, False], [False, True]])}}
    # All labels are 0. Nine examples like weight 1 a little, one likes weight 0 a lot.
    x = jnp.zeros((2, 9, 2)).at[0, :, 1].set(0.2).at[1, :, 0].set(9.0)
    sizes = jnp.array([9, 1])
    clients = ClientData(x, jnp.zeros((2, 9), jnp.int32), sizes)
    _, variables, kept = selected(masks, clients, model=model)
    # log 2 and log(1 + exp(-9)), against log(1 + exp(-0.2)) and log 2.
    assert kept["params"]["w"].tolist() == [True, False]
    assert variables["params"]["w"].tolist() == [1.0, 0.0]


def test_a_loss_that_is_not_a_number_is_never_the_least() -> None:
    model = models.from_functions(
        lambda key: {"w": jnp.array([jnp.nan, 1.0])},
        lambda params, x: jnp.stack([x @ params["w"], 0 * x[:, 0]], axis=1),
    )
    masks = {"params": {"w": jnp.array([[True, True], [False, True]])}}
    clients = ClientData(jnp.ones((1, 2, 2)), jnp.ones((1, 2), int), jnp.array([2]))
    with jax.debug_nans(False):
        _, _, kept = selected(masks, clients, model=model)
    assert kept["params"]["w"].tolist() == [False, True]


@pytest.mark.parametrize("allocation", ["erk", "layer"])
@pytest.mark.parametrize("sparsity", [0.3, 0.8])
def test_candidates_divide_the_same_budget_otherwise(allocation, sparsity) -> None:
    model = models.build("mlp", input_shape=(9,), num_classes=5, hidden=(20, 30))
    w = model.init(jax.random.key(0))
    masks = candidates.pool(jax.random.key(1), w, sparsity, 6, allocation=allocation)
    counts = pruning.leaf_counts(w, sparsity, scope=allocation)
    flat = [np.asarray(leaf).reshape(6, -1) for leaf in jax.tree.leaves(masks)]
    kept = np.stack([leaf.sum(1) for leaf in flat], axis=1)  # [C, leaves]
    assert kept[0].tolist() == [int(count) for count in jax.tree.leaves(counts)]
    assert np.all(kept.sum(1) == kept[0].sum())
    assert len({tuple(row) for row in kept}) == 6
    for leaf, weights in zip(flat, jax.tree.leaves(w), strict=True):
        size = np.abs(np.ravel(weights))
        for mask in leaf:
            assert size[mask].min(initial=9) >= size[~mask].max(initial=0)


def test_the_bytes_of_a_selection_and_its_cohort() -> None:
    algorithm = algorithms.fedtiny(
        NORMED.apply,
        final_sparsity=0.4,
        candidates=3,
        participation=0.67,
        local_epochs=1,
    )
    state = algorithm.init(jax.random.key(0), NORMED.init(jax.random.key(1)))
    clients = labelled([5, 8, 2])
    states, infos = run_rounds(
        jax.jit(algorithm.step), state, clients, round_keys(2, seed=4)
    )
    kept = sum(int(leaf.sum()) for leaf in jax.tree.leaves(states[1].masks["params"]))
    assert kept == 26 - int(0.4 * 26)
    # Three times 6 statistics and a loss; and the kept weights and statistics, twice.
    assert infos[0].setup_up.tolist() == [4 * 3 * (6 + 1)] * 2
    assert infos[0].setup_down.tolist() == [4 * 3 * (kept + 6 + 6)] * 2
    assert infos[1].setup_up.tolist() == infos[1].setup_down.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval is 0: it must be at least 1 round"),
        ({"blocks": 0}, "blocks is 0: it must be at least 1"),
        ({"candidates": 0}, "candidates is 0: it must be at least 1"),
    ],
)
def test_bad_arguments(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithms.fedtiny(MODEL.apply, **options)

"""PruneFL's adjustments as a method, on a linear model in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import linear, run_rounds, squared_error

from fedsparsify_jax import algorithms, models
from fedsparsify_jax.types import ClientData

RNG = np.random.default_rng(21)
X = RNG.normal(size=(2, 4, 10)).astype(np.float32)
Y = RNG.normal(size=(2, 4)).astype(np.float32)
COUNT = np.array([4, 3])
START = RNG.normal(size=(10,)).astype(np.float32)
START[3] = 0.0
MODEL = linear(START)
CLIENTS = ClientData(jnp.asarray(X), jnp.asarray(Y), jnp.asarray(COUNT))
RATE, EPOCHS, INTERVAL, ROUNDS = 0.02, 2, 2, 6


def states(**options: Any) -> list[Any]:
    algorithm = algorithms.prunefl(
        MODEL.apply,
        interval=INTERVAL,
        loss_fn=squared_error,
        batch_size=4,
        local_epochs=EPOCHS,
        learning_rate=RATE,
        **options,
    )
    step = jax.jit(algorithm.step)
    state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    return run_rounds(step, state, CLIENTS, map(jax.random.key, range(ROUNDS)))[0]


def chosen(
    w: np.ndarray, mask: np.ndarray, importance: np.ndarray, t: int, pinned: bool
) -> np.ndarray:
    """One adjustment by its description."""
    share = 0.3 * 0.5 ** (t / 10_000)
    kept = sorted(np.flatnonzero(mask), key=lambda i: -abs(w[i]))
    stay = kept[: len(kept) - int(share * len(kept))]
    others = sorted(set(range(10)) - set(stay), key=lambda i: -importance[i])
    if pinned:
        stay = sorted(stay, key=lambda i: -importance[i])[:6]
        stay += [i for i in others if i not in stay][: 6 - len(stay)]
    else:
        gained, spent = importance[stay].sum(), 1.0 + len(stay)  # c: a tenth of ten
        for i in others:
            if importance[i] <= gained / spent:
                break
            stay.append(i)
            gained, spent = gained + importance[i], spent + 1
    result = np.zeros(10, bool)
    result[stay] = True
    return result


@pytest.mark.parametrize("pinned", [False, True])
def test_whole_rounds(pinned: bool) -> None:
    options = {"final_sparsity": 0.4} if pinned else {}
    history = states(initial_adjustments=0, **options)
    w, mask = START.astype(float), np.ones(10, bool)
    for t in range(1, ROUNDS + 1):
        merged, importance = [], np.zeros(10)
        for x, y, n in zip(X, Y, COUNT, strict=True):
            local, total = w.copy(), np.zeros(10)
            for _ in range(EPOCHS):
                g = 2 * x[:n].T @ (x[:n] @ local - y[:n]) / n
                total = total + g
                local = (local - RATE * g) * mask
            importance = importance + n * total**2
            merged.append(local)
        w = np.average(merged, axis=0, weights=COUNT)
        if t % INTERVAL == 0:
            mask = chosen(w, mask, importance, t, pinned)
            w = w * mask
        np.testing.assert_array_equal(history[t].masks["params"]["w"], mask)
        np.testing.assert_allclose(
            history[t].variables["params"]["w"], w, rtol=1e-3, atol=1e-5
        )
    assert not mask.all()


def test_importance_is_the_square_of_a_rounds_sum() -> None:
    """Gradients +1 and -1 of one weight cancel, .8 and .8 of the other add up."""

    def loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return outputs

    model = models.from_functions(
        lambda key: {"w": jnp.array([1.0, 1.0])}, lambda params, x: x @ params["w"]
    )
    x = jnp.array([[[1.0, 0.8], [-1.0, 0.8]]])
    clients = ClientData(x, jnp.zeros((1, 2)), jnp.array([2]))
    algorithm = algorithms.prunefl(
        model.apply,
        loss_fn=loss,
        interval=1,
        final_sparsity=0.5,
        droppable=1.0,
        half_life=1e9,
        initial_adjustments=0,
        local_epochs=1,
        batch_size=1,
        learning_rate=1e-3,
    )
    state = algorithm.init(jax.random.key(0), model.init(jax.random.key(0)))
    state, _ = jax.jit(algorithm.step)(jax.random.key(1), state, clients)
    assert state.masks["params"]["w"].tolist() == [False, True]


def test_rounds_that_choose_send_a_dense_number_for_every_weight() -> None:
    algorithm = algorithms.prunefl(
        MODEL.apply,
        interval=INTERVAL,
        final_sparsity=0.4,
        loss_fn=squared_error,
        batch_size=4,
    )
    state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    step = jax.jit(algorithm.step)
    for t in range(1, 5):
        kept = int(state.masks["params"]["w"].sum()) if t > 1 else 6
        state, info = step(jax.random.key(t), state, CLIENTS)
        dense = 4 * 10 if t % INTERVAL == 0 else 0
        assert info.bytes_up.tolist() == [4 * kept + dense] * 2
        assert info.bytes_down.tolist() == [4 * 6] * 2


def test_the_initial_stage_prunes_before_the_first_round() -> None:
    pinned = states(final_sparsity=0.4, initial_adjustments=3)
    assert all(int(s.masks["params"]["w"].sum()) == 6 for s in pinned[1:])
    free = states(initial_adjustments=3, droppable=1.0, fixed_time=0.01)
    assert int(free[1].masks["params"]["w"].sum()) < 10


def test_max_density_caps_the_choice() -> None:
    capped = states(max_density=0.3, fixed_time=100.0)
    free = states(fixed_time=100.0)
    assert int(capped[-1].masks["params"]["w"].sum()) == 3
    assert int(free[-1].masks["params"]["w"].sum()) > 3


def test_slow_layers_lose_weights() -> None:
    two = models.from_functions(
        lambda key: {"a": jnp.ones(5), "b": jnp.ones(5)},
        lambda params, x: x[:, :5] @ params["a"] + x[:, 5:] @ params["b"],
    )

    def kept(slow: str) -> tuple[int, int]:
        algorithm = algorithms.prunefl(
            two.apply,
            layer_time=lambda name: 1e6 if name.endswith(slow) else 1.0,
            loss_fn=squared_error,
            droppable=1.0,
            batch_size=4,
        )
        state = algorithm.init(jax.random.key(0), two.init(jax.random.key(0)))
        state, _ = jax.jit(algorithm.step)(jax.random.key(1), state, CLIENTS)
        masks = state.masks["params"]
        return int(masks["a"].sum()), int(masks["b"].sum())

    assert kept("a")[0] < kept("b")[0]
    assert kept("b")[1] < kept("a")[1]


def test_frozen_zeros_stay_out() -> None:
    free = states(fixed_time=1e6, initial_adjustments=1)
    frozen = states(fixed_time=1e6, initial_adjustments=1, freeze_zero_initialized=True)
    assert all(bool(state.masks["params"]["w"][3]) for state in free)
    assert not any(bool(state.masks["params"]["w"][3]) for state in frozen[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_epochs": 0}, "initial_epochs is 0"),
        ({"interval": 0}, "interval is 0"),
        ({"initial_adjustments": -1}, "initial_adjustments is -1"),
    ],
)
def test_bad_arguments(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithms.prunefl(MODEL.apply, **options)

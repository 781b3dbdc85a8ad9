"""One round of FedProx and FedOpt on a linear model, in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import linear, run_rounds, squared_error

from fedsparsify_jax import algorithms
from fedsparsify_jax.types import ClientData

RNG = np.random.default_rng(3)
X = RNG.normal(size=(2, 4, 3)).astype(np.float32)
Y = RNG.normal(size=(2, 4)).astype(np.float32)
COUNT = (4, 3)
START = np.array([0.5, -1.0, 2.0], np.float32)
MODEL = linear(START)
RATE, EPOCHS = 0.1, 3


def one_round(builder: Any, rounds: int = 1, **options: Any) -> Any:
    """Whole batches, so that the order of the examples does not matter."""
    algorithm = builder(
        MODEL.apply,
        loss_fn=squared_error,
        batch_size=4,
        local_epochs=EPOCHS,
        learning_rate=RATE,
        **options,
    )
    clients = ClientData(jnp.asarray(X), jnp.asarray(Y), jnp.asarray(COUNT))
    state = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    step = jax.jit(algorithm.step)
    keys = map(jax.random.key, range(rounds))
    states, infos = run_rounds(step, state, clients, keys)
    return states[-1], infos[-1]


def local(
    start: np.ndarray, client: int, mu: float = 0.0, anchor: Any = 0.0
) -> np.ndarray:
    x, y = X[client, : COUNT[client]], Y[client, : COUNT[client]]
    w = start.copy()
    for _ in range(EPOCHS):
        gradient = 2 * x.T @ (x @ w - y) / len(y) + mu * (w - anchor)
        w = w - RATE * gradient
    return w


def merged(start: np.ndarray, **options: Any) -> np.ndarray:
    models_ = [local(start, client, **options) for client in range(2)]
    return np.average(models_, axis=0, weights=COUNT)


@pytest.mark.parametrize(("anchor", "point"), [("global", START), ("zero", 0.0)])
def test_fedprox_by_hand(anchor: str, point: Any) -> None:
    state, _ = one_round(algorithms.fedprox, mu=0.7, anchor=anchor)
    expected = merged(START, mu=0.7, anchor=point)
    np.testing.assert_allclose(state.variables["params"]["w"], expected, rtol=1e-5)
    assert not np.allclose(expected, merged(START), rtol=1e-2)


def test_fedprox_with_mu_zero_is_fedavg() -> None:
    proximal, _ = one_round(algorithms.fedprox, mu=0.0, rounds=2)
    average, _ = one_round(algorithms.fedavg, rounds=2)
    np.testing.assert_array_equal(
        proximal.variables["params"]["w"], average.variables["params"]["w"]
    )


def test_fedopt_with_sgd_at_rate_one_is_fedavg() -> None:
    stepped, _ = one_round(algorithms.fedopt, server_optimizer="sgd", rounds=3)
    average, _ = one_round(algorithms.fedavg, rounds=3)
    np.testing.assert_allclose(
        stepped.variables["params"]["w"], average.variables["params"]["w"], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["adam", "yogi", "adagrad", "momentum"])
def test_two_server_steps_by_hand(name: str) -> None:
    rate, tau = 0.3, 1e-3
    w, m, v = START.astype(float), np.zeros(3), np.full(3, tau**2)
    for _ in range(2):
        g = w - merged(w)
        if name == "momentum":
            m = 0.9 * m + g
            w = w - rate * m
            continue
        m = g if name == "adagrad" else 0.9 * m + 0.1 * g
        if name == "adagrad":
            v = v + g**2
        elif name == "adam":
            v = 0.99 * v + 0.01 * g**2
        else:
            v = v - 0.01 * g**2 * np.sign(v - g**2)
        w = w - rate * m / (np.sqrt(v) + tau)
    state, _ = one_round(
        algorithms.fedopt, 2, server_optimizer=name, server_learning_rate=rate
    )
    np.testing.assert_allclose(state.variables["params"]["w"], w, rtol=1e-4)


def test_fedopt_takes_any_transformation() -> None:
    own, _ = one_round(algorithms.fedopt, server_optimizer=optax.sgd(0.5))
    expected = START - 0.5 * (START - merged(START))
    np.testing.assert_allclose(own.variables["params"]["w"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("builder", "options", "message"),
    [
        (algorithms.fedprox, {"mu": -1.0}, "mu is -1.0"),
        (algorithms.fedprox, {"anchor": "start"}, "unknown anchor 'start'"),
        (algorithms.fedopt, {"server_optimizer": "lion"}, "one of sgd, momentum"),
        (
            algorithms.fedopt,
            {"server_optimizer": optax.sgd(1.0), "server_learning_rate": 1.0},
            "has its own",
        ),
    ],
)
def test_bad_arguments(builder: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        builder(MODEL.apply, **options)

"""The accuracy of every client's model on test examples of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import client_map
from fedsparsify_jax.metrics.per_client import evaluate_clients, spread
from fedsparsify_jax.types import ClientRows, Examples, State

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(30, 4)).astype(np.float32), RNG.integers(0, 3, 30)
WEIGHTS = RNG.normal(size=(5, 4, 3)).astype(np.float32)
ROWS = RNG.integers(0, 30, size=(5, 7)).astype(np.int32)
SIZES = np.array([7, 3, 1, 0, 5], np.int32)


def linear(variables, x, **_):
    return x @ variables, {}


def own(state, client):
    return state.clients[client]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize(
    "clients",
    [
        client_map.vmapped(),
        client_map.chunked(2),
        client_map.sharded(client_map.device_mesh(jax.devices()[:2])),
    ],
    ids=["vmapped", "chunked", "sharded"],
)
def test_each_client_is_judged_by_its_model_on_its_rows(clients, batch_size):
    state = State({}, {}, jnp.int32(0), clients=jnp.asarray(WEIGHTS))
    measured = jax.jit(
        lambda state: evaluate_clients(
            linear,
            own,
            state,
            Examples(X, Y),
            ClientRows(ROWS, SIZES),
            batch_size=batch_size,
            clients=clients,
        )
    )(state)
    for k, size in enumerate(SIZES):
        rows = ROWS[k, :size]
        right = np.argmax(X[rows] @ WEIGHTS[k], axis=1) == Y[rows]
        assert float(measured[k]) == pytest.approx(right.sum() / max(size, 1))


def test_the_worst_tenth_is_rounded_up():
    accuracies = np.arange(1, 12) / 20  # 11 clients: the worst two
    assert spread(accuracies).worst_decile == pytest.approx((1 + 2) / 2 / 20)
    assert spread(accuracies).mean == pytest.approx(6 / 20)
    assert spread(np.array([0.25])) == (0.25, 0.25)

"""FedDST's adjustment and merge against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP, linear, squared_error

from fedsparsify_jax import algorithms, pruning
from fedsparsify_jax.algorithms.feddst import readjust
from fedsparsify_jax.types import ClientData


def adjusted(
    w: np.ndarray, mask: np.ndarray, g: np.ndarray, alpha: float
) -> np.ndarray:
    """One layer: drop the smallest, grow the largest gradients among the pruned."""
    count = int(mask.sum())
    dropped = int(np.floor(alpha * count))
    kept_order = sorted(np.flatnonzero(mask), key=lambda i: (-abs(w[i]), i))
    kept = set(kept_order[: count - dropped])
    others = [i for i in range(w.size) if i not in kept]
    grown = sorted(others, key=lambda i: (-abs(g[i]), i))[:dropped]
    result = np.zeros(w.size, bool)
    result[[*kept, *grown]] = True
    return result


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("density", [0.2, 0.7, 1.0])
def test_one_adjustment(alpha: float, density: float) -> None:
    rng = np.random.default_rng(5)
    shapes = {"a": (4, 6), "b": (6, 5)}
    w, m, g = {}, {}, {}
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        m[name] = (rng.permutation(size) < round(density * size)).reshape(shape)
        w[name] = (rng.normal(size=shape) * m[name]).astype(np.float32)
        g[name] = rng.normal(size=shape).astype(np.float32)
    found = readjust(*(jax.tree.map(jnp.asarray, tree) for tree in (w, m, g)), alpha)
    for name, shape in shapes.items():
        flat = (tree[name].ravel() for tree in (w, m, g))
        expected = adjusted(*flat, alpha).reshape(shape)
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].sum() == m[name].sum()


X = np.random.default_rng(8).normal(size=(2, 4, 6)).astype(np.float32)
Y = np.random.default_rng(9).normal(size=(2, 4, 5)).astype(np.float32)
START = np.random.default_rng(10).normal(size=(6, 5)).astype(np.float32)
MODEL = linear(START)
COUNT = np.array([4, 3])
RATE, EPOCHS, ROUNDS, INTERVAL, ALPHA = 0.1, 2, 8, 2, 0.9


def numpy_round(
    w: np.ndarray, mask: np.ndarray, t: int
) -> tuple[np.ndarray, np.ndarray]:
    """A round of the algorithm for the linear model, by its description."""
    models_, masks = [], []
    for x, y, n in zip(X, Y, COUNT, strict=True):
        x, y, mine, kept = x[:n], y[:n], w * mask, mask
        for _ in range(EPOCHS):
            gradient = 2 * x.T @ (x @ mine - y) / n
            mine = (mine - RATE * gradient) * mask
        if (t - 1) % INTERVAL == 0 and t - 1 < ROUNDS / 2:
            alpha = ALPHA / 2 * (1 + np.cos(np.pi * (t - 1) / (ROUNDS / 2)))
            parts = (mine.ravel(), mask.ravel(), gradient.ravel())
            kept = adjusted(*parts, alpha).reshape(mask.shape)
        models_.append(mine * kept)
        masks.append(kept)
    holders = np.tensordot(COUNT, np.array(masks, float), 1)
    total = np.tensordot(COUNT, np.array(models_), 1)
    mean = np.where(holders > 0, total / np.maximum(holders, 1), 0.0)
    union = np.logical_or(*masks)
    order = sorted(np.flatnonzero(union), key=lambda i: (-abs(mean.ravel()[i]), i))
    result = np.zeros(mask.size, bool)
    result[order[: int(mask.sum())]] = True
    return mean * result.reshape(mask.shape), result.reshape(mask.shape)


def test_whole_rounds() -> None:
    algorithm = algorithms.feddst(
        MODEL.apply,
        final_sparsity=0.6,
        rounds=ROUNDS,
        interval=INTERVAL,
        alpha=ALPHA,
        allocation="layer",
        loss_fn=squared_error,
        batch_size=4,
        local_epochs=EPOCHS,
        learning_rate=RATE,
    )
    clients = ClientData(jnp.asarray(X), jnp.asarray(Y[..., :]), jnp.asarray(COUNT))
    step = jax.jit(algorithm.step)
    start = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    state, _ = step(jax.random.key(1), start, clients)
    # The random start is not seen from outside; any round after the first is.
    for t in range(2, 6):
        before = state
        state, info = step(jax.random.key(t), state, clients)
        w, mask = numpy_round(
            np.asarray(before.variables["params"]["w"], float),
            np.asarray(before.masks["params"]["w"]),
            t,
        )
        np.testing.assert_array_equal(state.masks["params"]["w"], mask)
        np.testing.assert_allclose(
            state.variables["params"]["w"], w, rtol=1e-4, atol=1e-5
        )
        moved = bool(np.any(mask != np.asarray(before.masks["params"]["w"])))
        assert moved == (t == 3)  # rounds 1 and 3 adjust, the share is 0 from 5 on
        assert float(info.sparsity) == pytest.approx(0.6)


def test_the_first_masks_follow_the_allocation() -> None:
    algorithm = algorithms.feddst(
        MLP.apply, final_sparsity=0.5, interval=100, alpha=0.0, batch_size=4
    )
    variables = MLP.init(jax.random.key(1))
    state = algorithm.init(jax.random.key(0), variables)
    clients = ClientData(
        jnp.ones((2, 3, 5)), jnp.zeros((2, 3), jnp.int32), jnp.array([3, 1])
    )
    step = jax.jit(algorithm.step)
    state, _ = step(jax.random.key(2), state, clients)
    other, _ = step(
        jax.random.key(3), algorithm.init(jax.random.key(0), variables), clients
    )
    counts = pruning.leaf_counts(variables, 0.5, scope="erk")
    wanted = jax.tree.leaves(counts)
    assert [int(m.sum()) for m in jax.tree.leaves(state.masks)] == [
        int(count) for count in wanted
    ]
    pairs: Any = zip(
        jax.tree.leaves(state.masks), jax.tree.leaves(other.masks), strict=True
    )
    assert any(np.any(a != b) for a, b in pairs)

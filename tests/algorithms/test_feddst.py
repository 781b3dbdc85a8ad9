"""FedDST's adjustment and merge against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import linear, squared_error

from fedsparsify_jax import algorithms, models, pruning
from fedsparsify_jax.algorithms._shared.adjustment import prune_union
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


X = np.random.default_rng(8).normal(size=(2, 4, 6)).astype(np.float32)
Y = np.random.default_rng(9).normal(size=(2, 4, 5)).astype(np.float32)
START = np.random.default_rng(10).normal(size=(6, 5)).astype(np.float32)
MODEL = linear(START)
COUNT = np.array([4, 3])
RATE, EPOCHS, ROUNDS, INTERVAL, ALPHA = 0.1, 2, 8, 2, 0.9


def numpy_round(
    w: np.ndarray, mask: np.ndarray, t: int, before: int
) -> tuple[np.ndarray, np.ndarray]:
    """A round of the linear model: `before` epochs, an adjustment, the other epochs."""
    models_, masks = [], []
    for x, y, n in zip(X, Y, COUNT, strict=True):
        x, y, local, kept = x[:n], y[:n], w * mask, mask

        def gradient(w, x=x, y=y, n=n):
            return 2 * x.T @ (x @ w - y) / n

        for _ in range(before):
            local = (local - RATE * gradient(local)) * mask
        if (t - 1) % INTERVAL == 0 and t - 1 < ROUNDS / 2:
            alpha = ALPHA / 2 * (1 + np.cos(np.pi * (t - 1) / (ROUNDS / 2)))
            parts = (local.ravel(), mask.ravel(), gradient(local).ravel())
            kept = adjusted(*parts, alpha).reshape(mask.shape)
            local = local * kept
        for _ in range(EPOCHS - before):
            local = (local - RATE * gradient(local)) * kept
        models_.append(local)
        masks.append(kept)
    holders = np.tensordot(COUNT, np.array(masks, float), 1)
    total = np.tensordot(COUNT, np.array(models_), 1)
    mean = np.where(holders > 0, total / np.maximum(holders, 1), 0.0)
    union = np.logical_or(*masks)
    flat, votes = mean.ravel(), holders.ravel()
    order = sorted(np.flatnonzero(union), key=lambda i: (-abs(flat[i]), -votes[i], i))
    result = np.zeros(mask.size, bool)
    result[order[: int(mask.sum())]] = True
    return mean * result.reshape(mask.shape), result.reshape(mask.shape)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_whole_rounds(before: int) -> None:
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
        adjust_after=before,
        first_masks="random",
    )
    clients = ClientData(jnp.asarray(X), jnp.asarray(Y[..., :]), jnp.asarray(COUNT))
    step = jax.jit(algorithm.step)
    start = algorithm.init(jax.random.key(0), MODEL.init(jax.random.key(0)))
    state, _ = step(jax.random.key(1), start, clients)
    # The random start is not seen from outside; any round after the first is.
    for t in range(2, 6):
        old = state
        state, info = step(jax.random.key(t), state, clients)
        w, mask = numpy_round(
            np.asarray(old.variables["params"]["w"], float),
            np.asarray(old.masks["params"]["w"]),
            t,
            before,
        )
        np.testing.assert_array_equal(state.masks["params"]["w"], mask)
        np.testing.assert_allclose(
            state.variables["params"]["w"], w, rtol=1e-4, atol=1e-5
        )
        moved = bool(np.any(mask != np.asarray(old.masks["params"]["w"])))
        assert moved == (t == 3)  # rounds 1 and 3 adjust, the share is 0 from 5 on
        assert float(info.sparsity) == pytest.approx(0.6)


def first_round(key: int, **options: Any) -> Any:
    model = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(4,))
    algorithm = algorithms.feddst(
        model.apply,
        final_sparsity=0.5,
        interval=100,
        alpha=0.0,
        batch_size=4,
        **options,
    )
    variables = model.init(jax.random.key(1))
    clients = ClientData(
        jnp.ones((2, 3, 5)), jnp.zeros((2, 3), jnp.int32), jnp.array([3, 1])
    )
    state = algorithm.init(jax.random.key(0), variables)
    state, info = jax.jit(algorithm.step)(jax.random.key(key), state, clients)
    return variables, state, info


def test_the_first_masks_keep_the_largest_weights_of_every_layer() -> None:
    variables, state, info = first_round(2)
    counts = jax.tree.leaves(pruning.leaf_counts(variables, 0.5, scope="erk"))
    for count, w, mask in zip(
        counts, jax.tree.leaves(variables), jax.tree.leaves(state.masks), strict=True
    ):
        kept = np.sort(np.abs(np.asarray(w))[np.asarray(mask)])
        largest = np.sort(np.abs(np.asarray(w)).ravel())[w.size - int(count) :]
        np.testing.assert_array_equal(kept, largest)
    # Kept weights that are zero, such as biases, cost 32 bits: masks travel with them.
    assert info.bytes_down.tolist() == [4 * sum(map(int, counts))] * 2


def test_random_first_masks_follow_the_allocation() -> None:
    variables, state, _ = first_round(2, first_masks="random")
    _, other, _ = first_round(3, first_masks="random")
    counts = jax.tree.leaves(pruning.leaf_counts(variables, 0.5, scope="erk"))
    masks = jax.tree.leaves(state.masks), jax.tree.leaves(other.masks)
    for one in masks:
        assert [int(m.sum()) for m in one] == [int(count) for count in counts]
    assert any(np.any(a != b) for a, b in zip(*masks, strict=True))


def test_the_server_prefers_what_most_clients_grew() -> None:
    """Of three equal clients that drop index 2, two grow index 5 and one index 3."""
    w = jnp.array([5.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    votes = jnp.array([3.0, 3.0, 0.0, 1.0, 0.0, 2.0])
    kept = prune_union({"w": w}, {"w": votes}, {"w": jnp.int32(3)})["w"]
    assert np.flatnonzero(np.asarray(kept)).tolist() == [0, 1, 5]


@pytest.mark.parametrize("seed", range(5))
def test_the_union_is_pruned_by_size_then_votes_then_index(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = rng.choice([0.0, 0.0, 0.5, -0.5, 2.0], 40).astype(np.float32)
    votes = rng.integers(0, 4, 40).astype(np.float32)
    count = int(rng.integers(0, 40))
    kept = prune_union(
        {"w": jnp.asarray(w)}, {"w": jnp.asarray(votes)}, {"w": jnp.int32(count)}
    )["w"]
    order = sorted(np.flatnonzero(votes), key=lambda i: (-abs(w[i]), -votes[i], i))
    expected = np.zeros(40, bool)
    expected[order[:count]] = True
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval is 0"),
        (
            {"adjust_after": 5},
            "adjust_after is 5: it must be from 0 to local_epochs, 4",
        ),
        (
            {"first_masks": "ones"},
            "unknown first_masks 'ones': 'magnitude' or 'random'",
        ),
        ({"variant": "theirs"}, "unknown variant 'theirs'"),
    ],
)
def test_bad_arguments(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithms.feddst(MODEL.apply, **options)

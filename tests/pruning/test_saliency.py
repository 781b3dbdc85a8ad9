"""Scores against closed forms and finite differences in NumPy."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import models
from fedsparsify_jax.masks import sparsity
from fedsparsify_jax.pruning import saliency

RNG = np.random.default_rng(7)
X = RNG.normal(size=(6, 4))
Y = RNG.normal(size=(6, 3))
W1 = RNG.normal(size=(4, 5))
W2 = RNG.normal(size=(5, 3))


def two_layers(w1: Any, w2: Any, xp: Any = np) -> Any:
    """Mean squared error of a tanh network."""
    return xp.mean((xp.tanh(X.astype("f4") @ w1) @ w2 - Y.astype("f4")) ** 2)


def jax_loss(variables: Any) -> jax.Array:
    return two_layers(variables["params"]["w1"], variables["params"]["w2"], jnp)


def variables() -> dict[str, Any]:
    params = {"w1": jnp.asarray(W1, jnp.float32), "w2": jnp.asarray(W2, jnp.float32)}
    return {"params": params, "batch_stats": {"mean": jnp.ones(2)}}


def test_snip_against_the_gradient_by_hand() -> None:
    hidden = np.tanh(X @ W1)
    error = 2 * (hidden @ W2 - Y) / Y.size
    g2 = hidden.T @ error
    g1 = X.T @ ((error @ W2.T) * (1 - hidden**2))
    scores = saliency.snip(jax_loss, variables())
    np.testing.assert_allclose(scores["params"]["w1"], np.abs(g1 * W1), rtol=1e-4)
    np.testing.assert_allclose(scores["params"]["w2"], np.abs(g2 * W2), rtol=1e-4)
    assert not scores["batch_stats"]["mean"].any()


def test_grasp_of_linear_regression_in_closed_form() -> None:
    # F = |Xw - y|^2 / (2n): g = X'(Xw - y)/n, H = X'X/n.
    w = RNG.normal(size=(4,))
    y = RNG.normal(size=(6,))
    gradient = X.T @ (X @ w - y) / 6
    expected = w * (X.T @ X / 6 @ gradient)

    def loss(variables: Any) -> jax.Array:
        error = X.astype("f4") @ variables["params"]["w"] - y.astype("f4")
        return jnp.sum(error**2) / 12

    found = saliency.grasp(loss, {"params": {"w": jnp.asarray(w, jnp.float32)}})
    np.testing.assert_allclose(found["params"]["w"], expected, rtol=1e-4)


def test_grasp_predicts_what_removal_does_to_the_gradient_norm() -> None:
    """Finite differences: d/ds |g((1 - s) w_j)|^2 at s = 0 is -2 w_j (H g)_j."""

    def gradient(w1: np.ndarray, w2: np.ndarray) -> np.ndarray:
        hidden = np.tanh(X @ w1)
        error = 2 * (hidden @ w2 - Y) / Y.size
        g1 = X.T @ ((error @ w2.T) * (1 - hidden**2))
        return np.concatenate([g1.ravel(), (hidden.T @ error).ravel()])

    scores = np.asarray(saliency.grasp(jax_loss, variables())["params"]["w1"])
    step = 1e-5
    for j in [(0, 0), (1, 3), (3, 4)]:
        less, more = W1.copy(), W1.copy()
        less[j] *= 1 - step
        more[j] *= 1 + step
        change = np.sum(gradient(less, W2) ** 2) - np.sum(gradient(more, W2) ** 2)
        np.testing.assert_allclose(scores[j], -change / (4 * step), rtol=1e-3)


def chain(widths: tuple[int, ...], scale: float) -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(1)
    params = {
        f"w{i}": jnp.asarray(scale * rng.normal(size=pair), jnp.float32)
        for i, pair in enumerate(itertools.pairwise(widths))
    }

    def forward(params: Any, x: jax.Array) -> jax.Array:
        for name in sorted(params):
            x = jax.nn.relu(x @ params[name])
        return x

    model = models.from_functions(lambda key: params, forward)
    return model.apply, {"params": params}


def test_synflow_is_conserved_through_the_layers() -> None:
    apply_fn, variables = chain((3, 5, 4, 2), 1.0)
    scores = saliency.synflow(apply_fn, variables, jnp.ones((1, 3)))["params"]
    for leaf in scores.values():
        np.testing.assert_allclose(jnp.sum(leaf), 1.0, rtol=1e-5)
    # What flows into a hidden unit flows out of it.
    np.testing.assert_allclose(scores["w0"].sum(0), scores["w1"].sum(1), rtol=1e-5)
    # One weight by hand: R restricted to the paths through it, over R.
    a, b, c = (np.abs(np.asarray(variables["params"][f"w{i}"])) for i in range(3))
    flow = np.ones(3) @ a @ b @ c @ np.ones(2)
    through = a[1, 2] * (b @ c @ np.ones(2))[2] / flow
    np.testing.assert_allclose(scores["w0"][1, 2], through, rtol=1e-5)


def test_synflow_survives_overflow() -> None:
    apply_fn, variables = chain((3, 5, 4, 2), 1.0)
    _, huge = chain((3, 5, 4, 2), 1e14)  # R is about 1e42
    x = jnp.ones((1, 3))
    expected = saliency.synflow(apply_fn, variables, x)["params"]
    found = jax.jit(saliency.synflow, static_argnums=0)(apply_fn, huge, x)["params"]
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)


def test_synflow_masks_reach_the_sparsity_without_cutting_a_layer() -> None:
    apply_fn, variables = chain((6, 30, 4, 2), 1.0)
    x = jnp.ones((1, 6))
    masks = saliency.synflow_masks(apply_fn, variables, x, 0.96, iterations=20)
    total = 6 * 30 + 30 * 4 + 4 * 2
    kept = sum(int(leaf.sum()) for leaf in masks["params"].values())
    assert kept == total - int(0.96 * total)
    assert all(leaf.any() for leaf in masks["params"].values())
    alive = saliency.synflow(apply_fn, jax.tree.map(jnp.multiply, variables, masks), x)
    assert all(float(leaf.sum()) > 0.99 for leaf in alive["params"].values())
    assert float(sparsity(masks)) == pytest.approx(1 - kept / total)


def test_synflow_needs_an_iteration() -> None:
    apply_fn, variables = chain((3, 2), 1.0)
    with pytest.raises(ValueError, match="iterations is 0"):
        saliency.synflow_masks(apply_fn, variables, jnp.ones((1, 3)), 0.5, iterations=0)

"""The contrastive loss against NumPy, with and without padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax.method import Batch
from fedsparsify_jax.training.contrastive import nt_xent, of_two_views, similarities


def oracle(z, real, tau):
    """Losses of views one by one, as equation 1 has them; ``real`` rows a half."""
    half = len(z) // 2
    rows = [*range(real), *range(half, half + real)]
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    losses = {}
    for i in rows:
        partner = (i + half) % len(z)
        others = [np.exp(unit[i] @ unit[k] / tau) for k in rows if k != i]
        losses[i] = -np.log(np.exp(unit[i] @ unit[partner] / tau) / sum(others))
    return losses


@pytest.mark.parametrize("real", [1, 3, 4])
@pytest.mark.parametrize("tau", [0.2, 1.0])
def test_losses_are_numpys(real, tau):
    z = np.random.default_rng(real).normal(size=(8, 3))
    valid = jnp.tile(jnp.arange(4) < real, 2)
    similar = similarities(jnp.asarray(z, jnp.float32), valid, tau)
    got = nt_xent(similar)
    for row, loss in oracle(z, real, tau).items():
        assert float(got[row]) == pytest.approx(loss, rel=1e-4, abs=1e-5)


def test_gradients_are_finite_of_projections_that_are_zero():
    def total(z):
        return jnp.sum(nt_xent(similarities(z, jnp.ones(4, bool), 0.2)))

    assert np.isfinite(jax.grad(total)(jnp.zeros((4, 2)))).all()


def test_both_views_of_an_example_go_through_the_network_at_once():
    """Row i and row B + i are example i, and padding is compared with nothing."""

    def apply_fn(variables, x, *, train=False, key=None, valid=None):
        noise = 0.1 * jnp.arange(x.size).reshape(x.shape)  # the model's augmentation
        return x + noise, {"seen": {"valid": valid}}

    x = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    valid = jnp.array([True, True, False])
    batch = Batch(x, jnp.zeros(3, jnp.int32), valid)
    old = {"params": {}, "seen": {"valid": jnp.zeros(6, bool)}}
    contrast = of_two_views(apply_fn, old, batch, jax.random.key(0), 0.5)
    z = np.tile(x, (2, 1)) + 0.1 * np.arange(12).reshape(6, 2)
    for row, loss in oracle(z, 2, 0.5).items():
        assert float(contrast.losses[row]) == pytest.approx(loss, rel=1e-4)
    assert contrast.changed["seen"]["valid"].tolist() == [True, True, False] * 2

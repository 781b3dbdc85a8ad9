"""The classifier of linear evaluation: it is where its loss has no slope."""

import jax
import numpy as np

from fedsparsify_jax.training.linear_probe import fitted


def test_the_slope_at_the_answer_is_numpys_zero():
    rng = np.random.default_rng(0)
    h = (rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)) + 7).astype(np.float32)
    y, decay = rng.integers(0, 3, 60), 0.01
    kernel, bias = jax.jit(lambda h, y: fitted(h, y, 3, decay=decay))(h, y)
    spread = h.std(axis=0)
    standard = (h - h.mean(axis=0)) / spread
    weights = np.asarray(kernel) * spread[:, None]
    z = standard @ weights + np.asarray(bias) + h.mean(axis=0) @ np.asarray(kernel)
    shares = np.exp(z - z.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    errors = (shares - np.eye(3)[y]) / len(h)
    np.testing.assert_allclose(standard.T @ errors + decay * weights, 0, atol=1e-4)
    np.testing.assert_allclose(errors.sum(axis=0), 0, atol=1e-4)
    # It says more than the frequencies of classes do, so the zero is no starting point.
    assert np.abs(weights).max() > 0.05

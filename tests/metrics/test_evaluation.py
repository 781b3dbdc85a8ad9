"""Evaluation and bytes against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax.metrics import evaluate, nonzero_bytes
from fedsparsify_jax.metrics.communication import dense_bytes
from fedsparsify_jax.training.losses import cross_entropy
from fedsparsify_jax.types import Examples


def linear(variables, x, *, train=False, key=None, valid=None):
    assert not train
    return x @ variables["params"]["w"], {}


@pytest.mark.parametrize("batch_size", [1, 4, 7, 10, 1000])
def test_evaluation_does_not_depend_on_the_batch_size(batch_size):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)), rng.integers(0, 4, 10)
    w = rng.normal(size=(3, 4))
    examples = Examples(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32))
    variables = {"params": {"w": jnp.asarray(w, jnp.float32)}}
    result = jax.jit(
        lambda v, e: evaluate(linear, cross_entropy, v, e, batch_size=batch_size)
    )(variables, examples)
    logits = x @ w
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(10), y]
    assert float(result.loss) == pytest.approx(losses.mean(), rel=1e-5)
    assert float(result.metric) == pytest.approx((logits.argmax(axis=1) == y).mean())


def test_bytes_count_non_zeros_of_every_collection():
    variables = {
        "params": {"w": jnp.array([[0.0, 1.0], [-0.0, 2.0]])},
        "batch_stats": {"mean": jnp.array([3.0])},
    }
    assert int(nonzero_bytes(variables)) == 3 * 4
    assert dense_bytes(variables) == 5 * 4

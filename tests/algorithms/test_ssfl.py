"""SSFL: the mask of a cohort's scores, by examples, against NumPy."""

import jax
import numpy as np
from conftest import make_clients
from toy import linear

from fedsparsify_jax import algorithms

SIZES = (7, 2, 1, 6)
W0 = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)


def kept_after_a_round(name, **options):
    clients = make_clients(SIZES)
    algorithm = getattr(algorithms, name)(
        linear(W0).apply,
        final_sparsity=0.6,
        batch_size=7,  # one batch holds a whole client
        local_epochs=1,
        **options,
    )
    state = algorithm.init(jax.random.key(0), {"params": {"w": jax.numpy.asarray(W0)}})
    state, info = jax.jit(algorithm.step)(jax.random.key(1), state, clients)
    return np.asarray(state.masks["params"]["w"]), info


def scores(weights):
    """The weighted mean of |g w| over the clients."""
    clients, total = make_clients(SIZES), np.zeros_like(W0)
    for k, size in enumerate(SIZES):
        x, y = np.asarray(clients.x[k, :size]), np.asarray(clients.y[k, :size])
        p = np.exp(x @ W0)
        p /= p.sum(1, keepdims=True)
        total += weights[k] * np.abs(x.T @ (p - np.eye(3)[y]) / size * W0)
    return total / np.sum(weights)


def largest(scores, count):
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.ravel())[:count]] = True
    return mask.reshape(scores.shape)


def test_the_mask_is_that_of_the_mean_by_examples():
    mask, info = kept_after_a_round("ssfl")
    np.testing.assert_array_equal(mask, largest(scores(SIZES), 6))
    assert info.setup_up.tolist() == [4 * 15] * 4  # a score a parameter
    # Counted all the same, as SNIP does, the clients choose another one.
    equal, _ = kept_after_a_round("snip", source="cohort")
    np.testing.assert_array_equal(equal, largest(scores([1] * 4), 6))
    assert (mask != equal).any()

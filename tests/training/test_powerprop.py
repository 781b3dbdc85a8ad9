"""The map from what is trained to weights, its gradient and its way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax.training.powerprop import Powers, check_alpha, raised

THETA = np.array([-3.0, -0.25, -1e-20, 0.0, 1e-20, 0.5, 2.0], np.float32)


@pytest.mark.parametrize("alpha", [1.0, 1.25, 1.5, 2.0, 3.0, 5.0])
def test_weights_and_gradients_are_numpys(alpha):
    theta = THETA.astype(np.float64)
    pull = np.linspace(-1, 1, len(theta))  # dL/dw
    w = np.sign(theta) * np.abs(theta) ** alpha
    gradient = pull * alpha * np.abs(theta) ** (alpha - 1)

    got, back = jax.vjp(lambda theta: raised(theta, alpha), jnp.asarray(THETA))
    np.testing.assert_allclose(got, w, rtol=3e-6, atol=1e-37)
    np.testing.assert_allclose(
        back(jnp.asarray(pull, jnp.float32))[0], gradient, rtol=3e-6, atol=1e-37
    )


@pytest.mark.parametrize("alpha", [1, 1.0, np.float32(1), jnp.float32(1)])
def test_exponent_one_changes_no_bit(alpha):
    """Also where it is traced, as in a sweep over exponents."""
    pull = jnp.linspace(-1, 1, len(THETA))

    def both(theta, alpha):
        got, back = jax.vjp(lambda theta: raised(theta, alpha), theta)
        return got, back(pull)[0]

    for function in (both, jax.jit(both)):
        got, gradient = function(jnp.asarray(THETA), alpha)
        np.testing.assert_array_equal(got, THETA)
        np.testing.assert_array_equal(gradient, pull)


@pytest.mark.parametrize("alpha", [1.01, 1.5, 2.0, 4.0])
def test_a_zero_has_no_gradient_and_no_nan(alpha):
    gradient = jax.jit(jax.grad(lambda theta: jnp.sum(raised(theta, alpha))))
    assert gradient(jnp.zeros(3)).tolist() == [0, 0, 0]


def test_roots_and_powers_lead_back():
    w = {"params": {"kernel": jnp.array([-3.0, -1e-9, 0.0, 0.5])}}
    for alpha in (1.0, 1.25, 2.0, 5.0):
        powers = Powers(alpha, None)
        back = powers.weights(powers.roots(w))["params"]["kernel"]
        np.testing.assert_allclose(back, w["params"]["kernel"], rtol=3e-6)
        assert back[2] == 0


def test_only_kernels_that_may_be_pruned_are_powers():
    one = jnp.full(1, 3.0)
    variables = {
        "params": {"a": {"kernel": one, "bias": one}, "b": {"kernel": one}},
        "batch_stats": {"mean": one},
    }
    powers = Powers(2.0, lambda name: not name.startswith("params/b"))
    expected = {
        "params": {"a": {"kernel": 9.0, "bias": 3.0}, "b": {"kernel": 3.0}},
        "batch_stats": {"mean": 3.0},
    }
    assert jax.tree.map(float, jax.tree.map(jnp.sum, powers.weights(variables))) == (
        expected
    )


def test_the_order_of_sizes_stays():
    theta = jnp.asarray(np.random.default_rng(0).normal(size=200), jnp.float32)
    order = np.argsort(np.abs(theta))
    for alpha in (1.25, 2.0, 5.0):
        sizes = np.abs(raised(theta, alpha))[order]
        assert (np.diff(sizes) >= 0).all()


def test_half_precision_stays_what_it_is_and_loses_no_more_than_its_own():
    theta = jnp.asarray(np.linspace(0.01, 3, 50), jnp.bfloat16)
    w = raised(theta, jnp.float32(1.5))
    assert w.dtype == jnp.bfloat16
    wanted = np.asarray(theta, np.float64) ** 1.5
    np.testing.assert_allclose(np.asarray(w, np.float64), wanted, rtol=0.012)


@pytest.mark.parametrize("alpha", [0.5, 0, -1, float("inf"), float("nan")])
def test_exponents_out_of_range_are_refused(alpha):
    with pytest.raises(ValueError, match=r"powerprop is .*: it must be at least 1"):
        check_alpha(alpha)

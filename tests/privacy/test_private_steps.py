"""Clipped gradients of examples and their noise, against NumPy and hostile examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from fedsparsify_jax import masks
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import Batch
from fedsparsify_jax.privacy import private_steps as steps
from fedsparsify_jax.privacy.private_steps import ExamplePrivacy, Hidden
from fedsparsify_jax.training.local import batch_loss
from fedsparsify_jax.training.losses import cross_entropy

W = np.array([[0.5, -1.0, 0.2], [1.5, 0.3, -0.7]])
KEPT = np.array([[True, True, False], [True, False, True]])
X = np.array([[1.0, 2.0], [-3.0, 0.5], [0.1, -0.2], [4.0, 4.0]])
Y = np.array([0, 2, 1, 0])
HOSTILE = st.floats(width=32, allow_nan=True, allow_infinity=True)


def linear(variables, x, *, train=False, key=None, valid=None):
    return x @ variables["params"]["w"], {}


LOSS = batch_loss(linear, cross_entropy)


def kept(params):
    return masks.apply({"w": jnp.asarray(KEPT)}, params)


def variables(w=W):
    return {"params": {"w": jnp.asarray(w, jnp.float32)}}


def batch(x=X, y=Y, valid=(True,) * 4):
    return Batch(jnp.asarray(x, jnp.float32), jnp.asarray(y), jnp.asarray(valid))


@jax.jit
def summed(batch, norm):
    key = jax.random.key(0)
    return steps.clipped_sum(LOSS, variables(), batch, key, norm, kept)


def numpys(x, y, valid, norm):
    """Gradients of softmax regression by hand, one by one in float64."""
    total, losses = np.zeros_like(W), 0.0
    for row, label, counts in zip(x, y, valid, strict=True):
        logits = row @ W
        shares = np.exp(logits) / np.exp(logits).sum()
        gradient = KEPT * np.outer(row, shares - np.eye(3)[label])
        length = np.sqrt((gradient**2).sum())
        total += counts * gradient * min(1.0, norm / length)
        losses += counts * -np.log(shares[label])
    return losses, total


@pytest.mark.parametrize("norm", [0.3, 1.5, 100.0])
@pytest.mark.parametrize("valid", [(1, 1, 1, 1), (1, 0, 1, 0)])
def test_the_sum_is_that_of_examples_clipped_one_by_one(norm, valid):
    losses, total = summed(batch(valid=np.array(valid, bool)), norm)
    expected = numpys(X, Y, valid, norm)
    np.testing.assert_allclose(total["w"], expected[1], rtol=1e-5, atol=1e-6)
    assert float(losses) == pytest.approx(expected[0], rel=1e-5)


@given(
    st_numpy.arrays(np.float32, (3, 2), elements=HOSTILE),
    st_numpy.arrays(np.float32, (2,), elements=HOSTILE),
    st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_one_example_moves_the_sum_by_no_more_than_the_norm(x, other, norm):
    """To zero it out, or by twice the norm to replace it, whatever anyone has."""
    x = np.concatenate([x, other[None]])
    with jax.debug_nans(False):
        losses, whole = summed(batch(x), norm)
        _, without = summed(batch(x, valid=(True, True, True, False)), norm)
        _, replaced = summed(batch(np.concatenate([x[:3], X[:1]])), norm)
    whole, without, replaced = (
        np.asarray(tree["w"], np.float64) for tree in (whole, without, replaced)
    )
    rounding = 1 + 1e-4
    assert np.isfinite(whole).all() and np.isfinite(losses)
    assert (whole[~KEPT] == 0).all()
    assert np.linalg.norm(whole - without) <= norm * rounding
    assert np.linalg.norm(whole - replaced) <= 2 * norm * rounding
    assert np.linalg.norm(whole) <= 4 * norm * rounding


@pytest.mark.parametrize("numbers", [1, 6, 12, 24])
def test_gradients_held_at_once_do_not_matter(numbers, monkeypatch):
    """1, 1, 2 and 4 gradients of 6 numbers."""
    plain = summed(batch(), 1.0)
    monkeypatch.setattr(steps, "NUMBERS_AT_ONCE", numbers)
    assert steps.at_once(4, 6) == max(1, numbers // 6)
    key = jax.random.key(0)
    parts = steps.clipped_sum(LOSS, variables(), batch(), key, 1.0, kept)
    np.testing.assert_allclose(parts[1]["w"], plain[1]["w"], rtol=1e-6)
    assert float(parts[0]) == pytest.approx(float(plain[0]))


def gradient_of(options, size=4, key=0, w=W, loss=LOSS, kept=kept):
    """The loss and the gradient of a private step."""
    step = steps.private_steps(options)(
        loss, batch(), jnp.int32(size), jax.random.key(key), kept
    )
    at = lambda model: step.loss(model, step.batch, jax.random.key(9))
    (value, changed), gradient = jax.value_and_grad(at, has_aux=True)(variables(w))
    step.check()
    assert changed == {}
    return value, np.asarray(gradient["params"]["w"])


@pytest.mark.parametrize(("size", "divisor"), [(4, 4), (9, 4), (3, 3), (0, 1)])
def test_a_step_divides_by_the_batch_or_a_smaller_client(size, divisor):
    value, gradient = gradient_of(ExamplePrivacy(0.3, 0.0), size)
    losses, total = numpys(X, Y, (1, 1, 1, 1), 0.3)
    np.testing.assert_allclose(gradient, total / divisor, rtol=1e-5, atol=1e-7)
    assert float(value) == pytest.approx(losses / 4, rel=1e-5)


def test_noise_has_the_deviation_of_the_mechanism_where_weights_are_kept():
    """z C / B = 3 * .5 / 4 = .375 on a loss without a gradient."""
    width = 20_000
    half = lambda params: {"w": jnp.where(jnp.arange(width) % 2 == 0, params["w"], 0)}

    def zero(variables, batch, key):
        return jnp.sum(variables["params"]["w"]) * 0.0, {}

    options = ExamplePrivacy(clip_norm=0.5, noise_multiplier=3.0)
    draws = [
        gradient_of(options, key=n, w=np.zeros(width), loss=zero, kept=half)[1]
        for n in (0, 1)
    ]
    for drawn in draws:
        assert (drawn[1::2] == 0).all()
        noise, number = drawn[::2], width / 2
        assert abs(noise.mean()) < 4 * 0.375 / np.sqrt(number)
        assert noise.std() == pytest.approx(0.375, rel=4 / np.sqrt(2 * number))
        assert (np.abs(noise) > 0.75).mean() == pytest.approx(0.0455, abs=0.008)
    assert abs(np.corrcoef(draws[0][::2], draws[1][::2])[0, 1]) < 0.05


def test_objectives_have_the_private_gradient_by_the_chain_rule():
    """Twice the loss of a doubled model has four times the gradient, and a penalty."""
    options = ExamplePrivacy(clip_norm=0.3, noise_multiplier=1.0)
    step = steps.private_steps(options)(
        LOSS, batch(), jnp.int32(4), jax.random.key(0), kept
    )

    def objective(w):
        value, _ = step.loss({"params": {"w": 2 * w}}, step.batch, jax.random.key(9))
        return 2 * value + jnp.sum(w**2) / 2

    half = jnp.asarray(W / 2, jnp.float32)
    gradient = jax.grad(objective)(half)
    expected = 4 * gradient_of(options)[1] + W / 2
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_examples_cannot_be_read():
    hidden = Hidden(jnp.zeros((2, 3)), "its loss looks")
    assert (hidden.shape, hidden.dtype, hidden.ndim) == ((2, 3), jnp.float32, 2)
    for read in (
        lambda: hidden[0],
        lambda: hidden + 1,
        lambda: 2 * hidden,
        lambda: hidden == 0,
        lambda: len(hidden),
        lambda: jnp.sum(hidden),
        lambda: np.asarray(hidden),
        lambda: hidden.sum(),
        lambda: hidden.at[0],
    ):
        with pytest.raises(InputError, match="its loss looks at examples outside"):
            read()


def test_a_step_takes_one_gradient_of_its_own_batch():
    options = ExamplePrivacy(1.0, 1.0)
    build = lambda: steps.private_steps(options)(
        LOSS, batch(), jnp.int32(4), jax.random.key(0), kept
    )
    step = build()
    with pytest.raises(InputError, match="take 0 gradients"):
        step.check()
    for _ in range(2):
        step.loss(variables(), step.batch, jax.random.key(1))
    with pytest.raises(InputError, match="take 2 gradients"):
        step.check()
    with pytest.raises(InputError, match="of other examples than those of the batch"):
        build().loss(variables(), batch(), jax.random.key(1))


def test_models_with_running_statistics_are_refused():
    def moving(variables, batch, key):
        return jnp.sum(variables["params"]["w"]), {"batch_stats": {"mean": 0.0}}

    with pytest.raises(InputError, match="training changes 'batch_stats' as well"):
        gradient_of(ExamplePrivacy(1.0, 1.0), loss=moving)

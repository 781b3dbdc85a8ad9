"""Scores of examples against derivatives by hand, and attacks that use them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP

from fedsparsify_jax import models
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.privacy import attacks, scores
from fedsparsify_jax.privacy.curves import auc, summarize
from fedsparsify_jax.training.losses import cross_entropy, squared_error
from fedsparsify_jax.types import ClientData, Examples


def two_layers(variables, x, *, train=False, key=None, valid=None):
    """x @ a, squared, @ b: regression whose derivatives are short."""
    assert not train
    params = variables["params"]
    hidden = x @ params["first"]["a"]
    return hidden**2 @ params["last"]["b"], {}


@pytest.fixture
def regression():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 2)), rng.normal(size=(2, 1))
    x, y = rng.normal(size=(7, 3)), rng.normal(size=7)
    a[0, 1] = b[1, 0] = 0.0
    variables = {
        "params": {"first": {"a": jnp.float32(a)}, "last": {"b": jnp.float32(b)}}
    }
    return variables, Examples(jnp.float32(x), jnp.float32(y)), (a, b, x, y)


def by_hand(a, b, x, y):
    """Losses, and the gradients by a and b of each example."""
    hidden = x @ a
    error = (hidden**2 @ b)[:, 0] - y
    by_b = (2 * error)[:, None] * hidden**2
    by_hidden = (2 * error)[:, None] * 2 * hidden * b[:, 0]
    return error**2, x[:, :, None] * by_hidden[:, None, :], by_b


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_scores_of_a_regression_are_those_worked_out_by_hand(regression, chunk):
    variables, examples, numbers = regression
    loss, by_a, by_b = by_hand(*numbers)
    data = (two_layers, squared_error, variables, examples)
    np.testing.assert_allclose(scores.losses(*data, chunk=chunk), loss, rtol=1e-4)
    norms = np.sqrt((by_a**2).sum(axis=(1, 2)) + (by_b**2).sum(axis=1))
    np.testing.assert_allclose(
        scores.gradient_norms(*data, chunk=chunk), norms, rtol=1e-4
    )
    features = scores.layer_gradients(*data, layer="last", chunk=chunk)
    np.testing.assert_allclose(features, by_b, rtol=1e-3, atol=1e-4)


def test_derivatives_by_pruned_weights_are_left_out(regression):
    variables, examples, numbers = regression
    _, by_a, by_b = by_hand(*numbers)
    masks = jax.tree.map(lambda w: w != 0, variables)
    by_a[:, 0, 1] = by_b[:, 1] = 0.0
    norms = np.sqrt((by_a**2).sum(axis=(1, 2)) + (by_b**2).sum(axis=1))
    data = (two_layers, squared_error, variables, examples)
    np.testing.assert_allclose(
        scores.gradient_norms(*data, masks=masks), norms, rtol=1e-4
    )
    features = scores.layer_gradients(*data, layer="last", masks=masks)
    np.testing.assert_array_equal(features[:, 1], 0.0)


def test_a_layer_that_is_not_there_is_refused_by_name(regression):
    variables, examples, _ = regression
    with pytest.raises(InputError, match="params/first, params/last"):
        scores.layer_gradients(
            two_layers, squared_error, variables, examples, layer="head"
        )
    with pytest.raises(InputError, match="chunk is 0"):
        scores.losses(two_layers, squared_error, variables, examples, chunk=0)


def test_confidences_are_log_odds_of_the_right_class():
    logits = np.array([[1.0, 2.0, 0.5], [-3.0, 0.0, 1.0]])
    y = np.array([1, 0])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p = p[np.arange(2), y]
    result = scores.logit_confidence(jnp.float32(logits), jnp.asarray(y))
    np.testing.assert_allclose(result, np.log(p / (1 - p)), rtol=1e-5)


def test_confidences_do_not_saturate():
    """Where p rounds to 1 in any precision, log-odds still tell examples apart."""
    logits = jnp.array([[200.0, 0.0, 0.0], [300.0, 0.0, 0.0], [-300.0, 0.0, 0.0]])
    result = scores.logit_confidence(logits, jnp.zeros(3, int))
    np.testing.assert_allclose(
        result, np.array([200, 300, -300]) - np.log(2), rtol=1e-6
    )


def test_confidences_of_numbers_are_refused():
    for outputs, y in [(jnp.zeros((2, 1)), [0, 0]), (jnp.zeros((2, 3)), [0.5, 1.0])]:
        with pytest.raises(InputError, match="logits"):
            scores.logit_confidence(outputs, jnp.array(y))


def test_padding_is_no_example():
    x = jnp.arange(12.0).reshape(2, 3, 2)
    y = jnp.arange(6).reshape(2, 3)
    clients = ClientData(x, y, jnp.array([3, 1]))
    real = scores.real_examples(clients)
    assert real.y.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(real.x[-1], [6.0, 7.0])
    one = scores.real_examples(ClientData(x[1], y[1], jnp.int32(1)))
    assert one.y.tolist() == [3]


# -- attacks on a network that has learnt random labels by heart, and on strangers


@pytest.fixture(scope="module")
def memorised():
    """An MLP fitted to random labels of 40 examples, and twins of other labels."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)), rng.integers(0, 3, 40)
    x = jnp.asarray(np.concatenate([x, x + 0.01]), jnp.float32)
    y = jnp.asarray(np.concatenate([y, (y + 1) % 3]), jnp.int32)
    network = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(64,))
    variables = network.init(jax.random.key(0))

    @jax.jit
    def train(variables):
        def loss(variables):
            outputs, _ = network.apply(variables, x[:40])
            return cross_entropy(outputs, y[:40]).mean()

        def step(carry, _):
            w, m = carry
            g = jax.grad(loss)(w)
            m = jax.tree.map(lambda a, b: 0.9 * a + b, m, g)
            return (jax.tree.map(lambda a, b: a - 0.3 * b, w, m), m), None

        zeros = jax.tree.map(jnp.zeros_like, variables)
        return jax.lax.scan(step, (variables, zeros), None, 500)[0][0]

    return network.apply, train(variables), Examples(x, y), np.arange(80) < 40


def every_attack(apply_fn, variables, examples, members):
    """Scores and truths of every attack that needs no shadow models."""
    data = (apply_fn, cross_entropy, variables, examples)
    losses = scores.losses(*data)
    norms = scores.gradient_norms(*data)
    gradients = scores.layer_gradients(*data, layer="Dense_1")
    features = np.column_stack([losses, norms, np.abs(gradients)])
    classifier = attacks.by_features(features, members)
    confidence = scores.confidences(apply_fn, variables, examples)
    return {
        "loss": (attacks.by_loss(losses), members),
        "norm": (-norms, members),
        "confidence": (confidence, members),
        "classifier": (classifier.scores, classifier.members),
    }


def test_every_attack_tells_the_members_of_a_memorising_network(memorised):
    results = every_attack(*memorised)
    assert len(results) == 4
    for name, result in results.items():
        assert auc(*result) > 0.95, name


def test_no_attack_tells_strangers_apart(memorised):
    apply_fn, variables, _, _ = memorised
    rng = np.random.default_rng(7)
    x = jnp.asarray(rng.normal(size=(160, 5)), jnp.float32)
    strangers = Examples(x, jnp.asarray(rng.integers(0, 3, 160), jnp.int32))
    results = every_attack(apply_fn, variables, strangers, np.arange(160) < 80)
    for name, result in results.items():
        interval = summarize(*result).auc
        assert interval.low <= 0.5 <= interval.high, name


def test_an_untrained_network_shows_nothing():
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(100, 5)), jnp.float32)
    examples = Examples(x, jnp.asarray(rng.integers(0, 3, 100), jnp.int32))
    loss = scores.losses(
        MLP.apply, cross_entropy, MLP.init(jax.random.key(0)), examples
    )
    interval = summarize(-loss, np.arange(100) < 50).auc
    assert interval.low <= 0.5 <= interval.high

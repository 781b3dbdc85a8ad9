"""The classifier of features: its minimum, its halves and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.privacy import attacks


def penalised(weights, features, labels, decay):
    """The objective of the docstring, on standardised features."""
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    margin = np.where(labels, 1, -1) * (standard @ weights[:-1] + weights[-1])
    return np.logaddexp(0, -margin).mean() + decay / 2 * (weights[:-1] ** 2).sum()


@pytest.mark.parametrize("apart", [0.0, 1.0, 50.0])
def test_the_fit_is_the_minimum_that_another_solver_finds(apart):
    rng = np.random.default_rng(0)
    labels = rng.random(60) < 0.4
    features = rng.normal(size=(60, 4)) * [1.0, 100.0, 0.01, 1.0] + [0, 5, 0, 0]
    features[:, 0] += apart * labels
    best = optimize.minimize(
        penalised, np.zeros(5), args=(features, labels, 0.01), tol=1e-10
    ).x
    fitted = attacks.logistic_regression(jnp.float32(features), labels, decay=0.01)
    standard = np.asarray(fitted.weights) * features.std(axis=0)
    bias = float(fitted.bias) + features.mean(axis=0) @ np.asarray(fitted.weights)
    reached = penalised(np.append(standard, bias), features, labels, 0.01)
    assert reached <= penalised(best, features, labels, 0.01) + 1e-5
    np.testing.assert_allclose(standard, best[:-1], atol=2e-2)


def test_features_that_never_vary_get_no_weight():
    features = jnp.array([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0], [0.1, 4.0]])
    fitted = attacks.logistic_regression(features, jnp.array([0, 0, 1, 1], bool))
    assert fitted.weights[0] == 0 and fitted.weights[1] > 0


def test_more_features_than_examples_can_be_fitted():
    features = jax.random.normal(jax.random.key(0), (10, 40))
    labels = jnp.arange(10) < 5
    fitted = attacks.logistic_regression(features, labels)
    assert (((features @ fitted.weights + fitted.bias) > 0) == labels).all()


def test_examples_are_scored_that_were_not_fitted_on():
    """A feature that names each example fits one half and says nothing of the other."""
    members = np.arange(41) < 15
    features = np.eye(41, dtype=np.float32)
    result = attacks.by_features(features, members, seed=1)
    assert len(set(result.places)) == len(result.places)
    np.testing.assert_array_equal(result.members, members[result.places])
    assert (result.members.sum(), (~result.members).sum()) == (7, 13)
    assert np.ptp(result.scores) < 1e-6
    other = attacks.by_features(features, members, seed=2)
    assert other.places.tolist() != result.places.tolist()


@pytest.mark.parametrize(
    ("features", "members", "message"),
    [
        (np.zeros(4), [1, 1, 0, 0], r"\[n, d\]"),
        (np.zeros((4, 1)), [1, 0], r"\[n, d\]"),
        (np.full((4, 1), np.nan), [1, 1, 0, 0], "NaN"),
        (np.zeros((4, 1)), [1, 1, 1, 0], "3 members and 1 others"),
    ],
)
def test_what_cannot_be_fitted_is_refused(features, members, message):
    with pytest.raises(InputError, match=message):
        attacks.by_features(features, np.array(members, bool))

"""Wrong inputs of the core are refused in one line, or counted out of the round."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from fedsparsify_jax import algorithms, models
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import ClientData

RATE = 0.5


def federation(sizes=(8, 8, 8), classes=None):
    """Three clients of 8 examples with 4 features, regression or classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 8, 4)).astype(np.float32)
    y = rng.normal(size=(3, 8, 1)).astype(np.float32)
    if classes is not None:
        y = rng.integers(0, classes, (3, 8)).astype(np.int32)
    return ClientData(jnp.asarray(x), jnp.asarray(y), jnp.asarray(sizes, jnp.int32))


def start_and_step(algorithm, variables):
    return algorithm.init(jax.random.key(0), variables), jax.jit(algorithm.step)


def one_round(data, *, loss_fn=None, width=3, sizes=None, **options):
    """A round of FedAvg on a linear model that starts at zero."""
    if loss_fn is not None:
        options["loss_fn"] = loss_fn
    plain = {"learning_rate": RATE, "local_epochs": 1, "batch_size": 8}
    algorithm = algorithms.fedavg(
        toy.linear(np.zeros((4, width), np.float32)).apply, **plain | options
    )
    variables = {"params": {"w": jnp.zeros((4, width))}}
    state, step = start_and_step(algorithm, variables)
    return step(jax.random.key(1), state, data)


# -- 1: the shape of the loss


@pytest.mark.parametrize(
    ("loss_fn", "squeezed", "shape"),
    [
        (lambda o, y: (o - y) ** 2, False, [8, 1]),
        (lambda o, y: (o - y[:, None].T) ** 2, True, [8, 8]),
        (lambda o, y: jnp.mean((o - y) ** 2), False, []),
    ],
)
def test_a_loss_that_is_not_one_number_an_example_is_refused(loss_fn, squeezed, shape):
    data = federation()
    if squeezed:
        data = data._replace(y=data.y[..., 0])
    message = re.escape(f"loss_fn returns shape {shape} for")
    with pytest.raises(InputError, match=message) as error:
        one_round(data, loss_fn=loss_fn, width=1)
    assert "[B] = [8]" in str(error.value)


def test_the_right_loss_of_the_same_examples_is_the_mean_over_them():
    data = federation()
    _, info = one_round(data, loss_fn=lambda o, y: (o - y)[:, 0] ** 2, width=1)
    np.testing.assert_allclose(info.loss, np.mean(np.square(data.y)), rtol=1e-5)


def test_whole_numbers_are_no_loss():
    with pytest.raises(InputError, match="loss_fn returns int32: losses must be float"):
        one_round(federation(), loss_fn=lambda o, y: jnp.ones(len(y), jnp.int32))


# -- 2: parameters that are one array


@pytest.mark.parametrize("name", ["fedsparsify_global", "fedsparsify_local"])
def test_parameters_that_are_one_array_are_pruned(name):
    model = models.from_functions(
        lambda key: jax.random.normal(key, (4, 3)), lambda params, x: x @ params
    )
    algorithm = getattr(algorithms, name)(
        model.apply, schedule=lambda t: 0.5, local_epochs=1, batch_size=8
    )
    state, step = start_and_step(algorithm, model.init(jax.random.key(0)))
    state, info = step(jax.random.key(1), state, federation(classes=3))
    assert float(info.sparsity) == 0.5
    assert np.count_nonzero(state.variables["params"]) == 6


# -- 4: labels outside the classes


@pytest.mark.parametrize("label", [3, 7, -1])
def test_a_client_with_a_label_outside_the_classes_is_rejected(label):
    data = federation(classes=3)
    spoiled = data._replace(y=data.y.at[1, 5].set(label))
    alone = jax.tree.map(lambda leaf: leaf[jnp.array([0, 2])], data)
    with jax.debug_nans(False):
        state, info = one_round(spoiled)
        others, _ = one_round(alone)
    assert (int(info.merged), int(info.rejected)) == (2, 1)
    assert np.isfinite(info.loss)
    np.testing.assert_allclose(toy.weights(state), toy.weights(others), rtol=1e-5)


# -- 5: sizes of clients


@pytest.mark.parametrize("size", [9, 1000, -2])
def test_a_concrete_size_beyond_its_row_is_refused(size):
    algorithm = algorithms.fedavg(toy.linear(np.zeros((4, 3), np.float32)).apply)
    state = algorithm.init(jax.random.key(0), {"params": {"w": jnp.zeros((4, 3))}})
    with pytest.raises(InputError, match=f"client 1 has {size} examples in a row of 8"):
        algorithm.step(jax.random.key(0), state, federation((8, size, 8), classes=3))


def test_a_traced_size_beyond_its_row_counts_as_the_whole_row():
    states = [
        one_round(federation(sizes, classes=3))[0]
        for sizes in ((2, 8, 8), (2, 1000, 8))
    ]
    np.testing.assert_array_equal(*map(toy.weights, states))

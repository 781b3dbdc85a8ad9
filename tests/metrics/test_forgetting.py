"""What is forgotten and learned: by hand, and an identity of any correctness."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fedsparsify_jax.client_map import chunked
from fedsparsify_jax.metrics.forgetting import change, is_right, is_right_of_clients
from fedsparsify_jax.metrics.prediction import outputs_of
from fedsparsify_jax.types import ClientData, Examples

ROUNDS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=6))


@given(ROUNDS)
def test_accuracy_is_the_first_one_and_what_is_learned_less_what_is_forgotten(right):
    changed = change(right, right[-1])
    end, before = right[-1].mean(), right.mean(axis=-1)
    np.testing.assert_allclose(
        end, before + changed.learned - changed.forgotten, atol=1e-6
    )
    for e, row in enumerate(right):
        pairs = list(zip(row.tolist(), right[-1].tolist(), strict=True))
        assert np.isclose(changed.forgotten[e], pairs.count((True, False)) / len(pairs))
        assert np.isclose(changed.learned[e], pairs.count((False, True)) / len(pairs))
    assert changed.forgotten[-1] == changed.learned[-1] == 0


@given(ROUNDS, st.data())
def test_examples_that_do_not_count_change_nothing(right, data):
    valid = data.draw(arrays(bool, right.shape[1:]))
    changed = change(right, right[-1], valid)
    if valid.any():
        few = change(right[:, valid], right[-1, valid])
        np.testing.assert_allclose(changed.forgotten, few.forgotten, rtol=1e-6)
        np.testing.assert_allclose(changed.learned, few.learned, rtol=1e-6)
    else:
        assert not changed.forgotten.any() and not changed.learned.any()


def scaled(variables, x, **_):
    return x * variables["params"], {}


def test_outputs_do_not_depend_on_batches():
    x = jnp.arange(14.0).reshape(7, 2)
    for size in (1, 2, 3, 7, 100):
        got = outputs_of(scaled, {"params": 2.0}, x, batch_size=size)
        np.testing.assert_array_equal(got, 2 * x)
    got = outputs_of(scaled, {"params": 2.0}, x, batch_size=2, batches=chunked(3))
    np.testing.assert_array_equal(got, 2 * x)


def test_right_is_the_largest_output_and_padding_is_not():
    x = jnp.array([[[3.0, 1.0], [0.0, 1.0]], [[1.0, 2.0], [9.0, 9.9]]])
    clients = ClientData(x, jnp.array([[0, 0], [1, 1]]), jnp.array([2, 1]))
    got = is_right_of_clients(scaled, {"params": 1.0}, clients, batch_size=3)
    assert got.tolist() == [[True, False], [True, False]]
    flat = is_right(scaled, {"params": -1.0}, Examples(x[0], clients.y[0]))
    assert flat.tolist() == [False, True]

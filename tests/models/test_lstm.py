"""The text model against Flax's own recurrent layers, and its padding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax.models.lstm import LSTM, TextLSTM


@pytest.mark.parametrize("reverse", [False, True])
def test_a_layer_agrees_with_flax(key: jax.Array, reverse: bool) -> None:
    x = jax.random.normal(jax.random.key(1), (5, 2, 3))
    layer = LSTM(4, reverse=reverse)
    present = jnp.ones((5, 2), bool)
    (end, states), variables = layer.init_with_output(key, x, present)
    params = variables["params"]
    ours = dict(zip("ifgo", jnp.split(params["kernel"], 4, axis=1), strict=True))
    inner = dict(
        zip("ifgo", jnp.split(params["recurrent_kernel"], 4, axis=1), strict=True)
    )
    bias = dict(zip("ifgo", jnp.split(params["bias"], 4), strict=True))
    theirs = {f"i{gate}": {"kernel": ours[gate]} for gate in "ifgo"} | {
        f"h{gate}": {"kernel": inner[gate], "bias": bias[gate]} for gate in "ifgo"
    }
    cell = nn.LSTMCell(4)
    with jax.debug_key_reuse(False):  # Flax draws its zero carry from a fixed key
        carry = cell.initialize_carry(jax.random.key(2), x[0].shape)
    expected = np.zeros(states.shape)
    for time in range(5)[:: -1 if reverse else 1]:
        with jax.numpy_rank_promotion("allow"):
            carry, expected[time] = cell.apply({"params": theirs}, carry, x[time])
    np.testing.assert_allclose(states, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(end, expected[0 if reverse else -1], atol=1e-5)
    np.testing.assert_array_equal(params["bias"], np.repeat([0, 1, 0, 0], 4))


def network(**options: bool) -> TextLSTM:
    return TextLSTM(2, vocabulary=9, embedding=4, units=(3, 2), **options)


def test_padding_never_changes_an_answer(key: jax.Array) -> None:
    short = jnp.array([[3, 5, 8]])
    padded = jnp.array([[0, 0, 3, 5, 8], [3, 5, 8, 0, 0], [3, 0, 5, 0, 8]])
    variables = network().init(key, short)
    expected = np.repeat(jax.jit(network().apply)(variables, short), 3, axis=0)
    answers = jax.jit(network().apply)(variables, padded)
    np.testing.assert_allclose(answers, expected, rtol=1e-5)
    read = jax.jit(network(mask_padding=False).apply)(variables, padded)
    assert np.all(np.abs(read - expected).max(axis=1) > 1e-5)


def test_a_text_of_padding_alone_is_finite(key: jax.Array) -> None:
    variables = network().init(key, jnp.ones((1, 3), jnp.int32))
    outputs = jax.jit(network().apply)(variables, jnp.zeros((1, 5), jnp.int32))
    assert np.isfinite(outputs).all()


def test_whole_floats_are_tokens_too(key: jax.Array) -> None:
    tokens = jnp.array([[3, 5, 8]])
    variables = network().init(key, tokens)
    apply = jax.jit(network().apply)
    np.testing.assert_array_equal(
        apply(variables, tokens.astype(jnp.float32)), apply(variables, tokens)
    )

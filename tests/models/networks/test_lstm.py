"""The text model against Flax's own recurrent layers, and its padding."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax.models.networks.lstm import LSTM, TextLSTM


@pytest.mark.parametrize("reverse", [False, True])
def test_a_layer_agrees_with_flax(made_up: Any, reverse: bool) -> None:
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 2, 3)), jnp.float32)
    present = jnp.ones((5, 2), bool)
    layer = LSTM(4, reverse=reverse)
    params = made_up(lambda key: layer.init(key, x, present))["params"]
    end, states = jax.jit(layer.apply)({"params": params}, x, present)
    parts = {name: np.split(leaf, 4, axis=-1) for name, leaf in params.items()}
    theirs = {}
    for number, gate in enumerate("ifgo"):
        kernel, bias = parts["recurrent_kernel"][number], parts["bias"][number]
        theirs[f"i{gate}"] = {"kernel": parts["kernel"][number]}
        theirs[f"h{gate}"] = {"kernel": kernel, "bias": bias}
    step = jax.jit(
        lambda carry, now: nn.LSTMCell(4).apply({"params": theirs}, carry, now)
    )
    carry, expected = (jnp.zeros((2, 4)), jnp.zeros((2, 4))), np.zeros(states.shape)
    for time in range(5)[:: -1 if reverse else 1]:
        carry, expected[time] = step(carry, x[time])
    np.testing.assert_allclose(states, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(end, expected[0 if reverse else -1], atol=1e-5)


def test_forget_gates_start_open(key: jax.Array) -> None:
    x = jnp.zeros((1, 1, 2))
    params = LSTM(3).init(key, x, jnp.ones((1, 1), bool))["params"]
    np.testing.assert_array_equal(params["bias"], np.repeat([0, 1, 0, 0], 3))


def network(**options: bool) -> TextLSTM:
    return TextLSTM(2, vocabulary=9, embedding=4, units=(3, 2), **options)


def test_padding_never_changes_an_answer(made_up: Any) -> None:
    short = jnp.array([[3, 5, 8]])
    padded = jnp.array([[0, 0, 3, 5, 8], [3, 5, 8, 0, 0], [3, 0, 5, 0, 8]])
    variables = made_up(lambda key: network().init(key, short))
    expected = np.repeat(jax.jit(network().apply)(variables, short), 3, axis=0)
    answers = jax.jit(network().apply)(variables, padded)
    np.testing.assert_allclose(answers, expected, rtol=1e-5)
    read = jax.jit(network(mask_padding=False).apply)(variables, padded)
    assert np.all(np.abs(read - expected).max(axis=1) > 1e-5)


def test_a_text_of_padding_alone_is_finite(made_up: Any) -> None:
    variables = made_up(lambda key: network().init(key, jnp.ones((1, 3), jnp.int32)))
    outputs = jax.jit(network().apply)(variables, jnp.zeros((1, 5), jnp.int32))
    assert np.isfinite(outputs).all()


def test_whole_floats_are_tokens_too(made_up: Any) -> None:
    tokens = jnp.array([[3, 5, 8]])
    variables = made_up(lambda key: network().init(key, tokens))
    apply = jax.jit(network().apply)
    np.testing.assert_array_equal(
        apply(variables, tokens.astype(jnp.float32)), apply(variables, tokens)
    )

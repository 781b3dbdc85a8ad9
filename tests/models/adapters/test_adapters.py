"""Linen, NNX and plain functions as models: flags, keys, augmentation, statistics."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedsparsify_jax import models


class Identity(nn.Module):
    """One parameter and the input as it came."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.param("zero", nn.initializers.zeros, (1,) * x.ndim)


class NNXNet(nnx.Module):
    """A list of layers, batch norm with a mask, dropout."""

    def __init__(self, rngs: nnx.Rngs, rate: float = 0.5) -> None:
        self.layers = nnx.List(
            [nnx.Linear(5, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)]
        )
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        mask = None if valid is None else valid[:, None]
        with jax.numpy_rank_promotion("allow"):
            x = self.norm(self.layers[0](x), mask=mask)
            return self.layers[1](self.dropout(nnx.relu(x)))


def shift(key: jax.Array, x: jax.Array) -> jax.Array:
    return x + jax.random.uniform(key, (x.shape[0],) + (1,) * (x.ndim - 1)) + 1.0


def adapted(kind: str) -> models.Model:
    options: Any = {"preprocess": lambda x: x / 2.0, "augment": shift}
    if kind == "linen":
        return models.from_linen(Identity(), (3,), **options)

    class Same(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.zero = nnx.Param(jnp.zeros((1, 1)))

        def __call__(self, x: jax.Array) -> jax.Array:
            return x + self.zero[...]

    return models.from_nnx(Same, **options)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_augments_raw_inputs_in_training_with_a_key_only(
    kind: str, key: jax.Array
) -> None:
    model, x = adapted(kind), jnp.ones((2, 3))
    with jax.numpy_rank_promotion("allow"):
        variables = model.init(jax.random.key(1))
        plain = [
            model.apply(variables, x)[0],
            model.apply(variables, x, train=True)[0],
            model.apply(variables, x, key=jax.random.key(2))[0],
        ]
        for outputs in plain:
            np.testing.assert_array_equal(outputs, 0.5)
        outputs, changed = model.apply(variables, x, train=True, key=key)
    assert changed == {}
    assert np.all(outputs >= 1.0) and np.all(outputs < 1.5)
    assert outputs[0, 0] != outputs[1, 0]


def test_augmentation_and_dropout_get_different_keys(made_up: Any) -> None:
    keys = []

    def spy(key: jax.Array, x: jax.Array) -> jax.Array:
        keys.append(jax.random.key_data(key))
        return x

    class Drop(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
            if train:
                keys.append(jax.random.key_data(self.scope.rngs["dropout"].rng))
            return nn.Dense(1)(x)

    model = models.from_linen(Drop(), (3,), augment=spy)
    model.apply(
        made_up(model.init), jnp.ones((1, 3)), train=True, key=jax.random.key(0)
    )
    original = jax.random.key_data(jax.random.key(0))
    assert len({tuple(data.tolist()) for data in (*keys, original)}) == 3


def test_build_passes_the_augmentation_on(key: jax.Array, made_up: Any) -> None:
    shape = {"input_shape": (4,), "num_classes": 2, "hidden": (3,)}
    plain = models.build("mlp", **shape)
    model = models.build("mlp", **shape, augment=lambda key, x: jnp.zeros_like(x))
    variables, x = made_up(model.init), jnp.ones((2, 4))
    zeroed, _ = model.apply(variables, x, train=True, key=key)
    np.testing.assert_allclose(zeroed, plain.apply(variables, jnp.zeros((2, 4)))[0])
    np.testing.assert_array_equal(
        model.apply(variables, x)[0], plain.apply(variables, x)[0]
    )


def test_an_integer_example_reaches_a_token_model(key: jax.Array) -> None:
    class Tokens(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            assert x.dtype == jnp.int32
            return nn.Embed(5, 2)(x).sum(axis=1)

    model = models.from_linen(Tokens(), (4,), input_dtype=jnp.int32)
    variables = jax.eval_shape(model.init, key)
    x = jax.ShapeDtypeStruct((3, 4), jnp.uint8)
    assert jax.eval_shape(model.apply, variables, x)[0].shape == (3, 2)


def test_parameters_may_depend_on_the_example(key: jax.Array) -> None:
    class DataDependent(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return x + self.param("start", lambda key: x[:1] + 1.0)

    variables = models.from_linen(DataDependent(), (2,)).init(key)
    np.testing.assert_array_equal(variables["params"]["start"], [[1.0, 1.0]])


def test_nnx_collections_are_plain_dicts_with_text_keys(key: jax.Array) -> None:
    variables = models.from_nnx(NNXNet).init(key)
    assert jax.tree.map(jnp.shape, variables) == {
        "params": {
            "layers": {
                "0": {"kernel": (5, 4), "bias": (4,)},
                "1": {"kernel": (4, 3), "bias": (3,)},
            },
            "norm": {"scale": (4,), "bias": (4,)},
        },
        "batch_stats": {"norm": {"mean": (4,), "var": (4,)}},
    }


def test_nnx_modes_keys_and_padded_rows(made_up: Any) -> None:
    model = models.from_nnx(NNXNet)
    variables = made_up(model.init)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)
    valid = jnp.arange(6) < 4
    one, two = jax.random.split(jax.random.key(0))

    @jax.jit
    def train(x: jax.Array, key: jax.Array) -> Any:
        return model.apply(variables, x, train=True, key=key, valid=valid)

    first, changed = train(x, one)
    np.testing.assert_array_equal(first, train(x, jax.random.clone(one))[0])
    assert np.any(first != train(x, two)[0])
    other_padding = train(jnp.where(valid[:, None], x, 9.0), two)[1]
    for a, b in zip(
        jax.tree.leaves(changed), jax.tree.leaves(other_padding), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert np.any(
        changed["batch_stats"]["norm"]["mean"]
        != variables["batch_stats"]["norm"]["mean"]
    )
    outputs, nothing = model.apply(variables, x)
    np.testing.assert_array_equal(outputs, model.apply(variables, x)[0])
    assert nothing == {}
    with pytest.raises(ValueError, match="training needs a key"):
        model.apply(variables, x, train=True)


def test_nnx_refuses_what_it_cannot_carry() -> None:
    class Cached(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.weight = nnx.Param(jnp.ones(2))
            self.cache = nnx.Cache(jnp.ones(2))

    class Empty(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.size = 3

    with pytest.raises(ValueError, match="variable cache is a Cache: only"):
        models.from_nnx(Cached)
    with pytest.raises(ValueError, match=r"no nnx\.Param"):
        models.from_nnx(Empty)

"""Flax's own batch norm in a compact form: outputs and running statistics stay."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compact_forms import form_of

from fedsparsify_jax import models
from fedsparsify_jax.models.adapters.layers import layers_of
from fedsparsify_jax.training.compact import Plan


class Normed(nn.Module):
    """Two dense layers with a batch norm of Flax between them."""

    by_position: bool = False
    with_bias: bool = True
    sequential = True

    @nn.compact
    def __call__(self, x, *, train=False):
        norm = nn.BatchNorm(
            None if self.by_position else not train, use_bias=self.with_bias
        )
        more = (not train,) if self.by_position else ()
        x = nn.Dense(4)(x)
        x = nn.relu(norm(x, *more))
        return nn.Dense(2)(x)


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_flax_norms_lose_dead_channels_and_nothing_else(by_position, train):
    model = models.from_linen(Normed(by_position), (3,))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    variables = jax.tree.map(
        lambda like: jnp.asarray(rng.uniform(0.5, 1, like.shape), jnp.float32), shapes
    )
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), variables)
    for leaf in ("kernel", "bias"):  # channel 1 gives zero, and nobody reads it
        first = masks["params"]["Dense_0"][leaf]
        masks["params"]["Dense_0"][leaf] = first.at[..., 1].set(False)
    masks["params"]["BatchNorm_0"]["bias"] = jnp.array([True, False, True, True])
    last = masks["params"]["Dense_1"]["kernel"]
    masks["params"]["Dense_1"]["kernel"] = last.at[1].set(False)
    variables = jax.tree.map(jnp.multiply, masks, variables)

    form = form_of(model, (3,), Plan((None, 3, None), (None, None)))
    index = form.index(masks)
    assert index.fits
    x = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    small = form.compact(index, variables)
    assert small["params"]["BatchNorm_0"]["scale"].shape == (3,)
    answer, moved = form.apply(index)(small, x, train=train)
    expected, changed = model.apply(variables, x, train=train)
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(moved, changed, rtol=1e-5, atol=1e-6)


def test_a_norm_without_shift_is_another_layer():
    model = models.from_linen(Normed(with_bias=False), (3,))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    layers = layers_of(model.apply, shapes, jnp.zeros((1, 3)))
    assert [layer.kind for layer in layers] == ["Dense", "Other", "Dense"]

"""Rounds of networks with convolutions and norms on fewer channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compact_forms import assert_same, form_of, play

from fedsparsify_jax import algorithms, models, schedules
from fedsparsify_jax.training.compact import Plan, plan_for
from fedsparsify_jax.types import ClientData

SHAPE = (4, 4, 2)


def clients():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, *SHAPE)).astype(np.float32)
    y = rng.integers(0, 3, (2, 5), dtype=np.int32)
    return ClientData(jnp.asarray(x), jnp.asarray(y), jnp.array([5, 4], jnp.int32))


def dead(masks, layer, channel, norm=None):
    """Masks in which nothing reaches a channel."""
    own = masks[layer]
    bias = own["bias"].at[channel].set(False)
    masks = masks | {
        layer: {"kernel": own["kernel"].at[..., channel].set(False), "bias": bias}
    }
    if norm:
        shift = masks[norm]["bias"].at[channel].set(False)
        masks = masks | {norm: {**masks[norm], "bias": shift}}
    return masks


def cnn_masks(masks):
    masks = dead(dead(masks, "Conv_0", 1), "Conv_2", 0)
    masks = dead(masks, "Conv_1", 2, "BatchNorm_0")
    masks = dead(dead(masks, "Conv_3", 1), "Dense_0", 3)
    return dead(masks, "Dense_0", 5)


def vgg_masks(masks):
    masks = dead(masks, "Conv_0", 1, "BatchNorm_0")
    return dead(dead(masks, "Conv_1", 2, "BatchNorm_1"), "Conv_1", 0, "BatchNorm_1")


CASES = {
    # The hidden layer of the one and the second norm of the other have room to spare.
    "cnn": (
        {"widths": (3, 4), "hidden": 8},
        Plan((None, 2, 2, 3, 3, 7, None), (None,) * 6),
        cnn_masks,
    ),
    "vgg16_bn": (
        {"widths": ((3,), (4,))},
        Plan((None, 2, 3, None), (None,) * 3),
        vgg_masks,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rounds_on_fewer_channels_are_the_same(name):
    options, plan, thin = CASES[name]
    options = options | {"conv": "patches"}
    model = models.build(name, input_shape=SHAPE, num_classes=3, **options)
    form = form_of(model, SHAPE, plan)
    build = algorithms.fedsparsify_global
    method = {"final_sparsity": 0.75, "rounds": 6}
    expected = play(build, model, clients(), thin, times=2, **method)
    found = play(build, model, clients(), thin, times=2, compact_form=form, **method)
    assert bool(form.index(found[0].masks).fits)
    assert_same(found, expected)
    moved = expected[0].variables["batch_stats"]["BatchNorm_0"]["var"]
    assert float(jnp.max(moved)) != 1.0  # the statistics did move
    assert jax.tree.structure(found) == jax.tree.structure(expected)


@pytest.mark.parametrize("name", CASES)
def test_a_purge_of_channels_leaves_a_smaller_network(name):
    options = CASES[name][0] | {"conv": "patches"}
    model = models.build(name, input_shape=SHAPE, num_classes=3, **options)
    algorithm = algorithms.fedsparsify_global(
        model.apply, pattern="channel", schedule=schedules.constant(0.5)
    )
    state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
    state, _ = jax.jit(algorithm.step)(jax.random.key(2), state, clients())
    kept = [
        int(jnp.sum(jnp.any(layer["kernel"], axis=(0, 1, 2))))
        for path, layer in state.masks["params"].items()
        if path.startswith("Conv")
    ]
    plan = plan_for(form_of(model, SHAPE, None).stages, state.masks)
    # No constant of a purged channel is left behind a norm.
    widths = [stage.outputs for stage in form_of(model, SHAPE, None).stages]
    rooms = [w if r is None else r for w, r in zip(widths, plan.units[1:], strict=True)]
    assert rooms[: len(kept)] == kept
    assert sum(kept) < sum(widths[: len(kept)])

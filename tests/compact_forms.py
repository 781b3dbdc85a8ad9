"""Rounds in full and on compact forms, for tests that compare them."""

import jax
import jax.numpy as jnp
import numpy as np
from toy import run_rounds

from fedsparsify_jax.models.adapters.layers import layers_of
from fedsparsify_jax.training.compact import CompactForm, stages_of


def form_of(model, shape, plan):
    variables = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    stages = stages_of(layers_of(model.apply, variables, x))
    return CompactForm(model.apply, stages, plan)


def start(algorithm, model, thin):
    """A state whose masks `thin` has cut down."""
    state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
    rng = np.random.default_rng(0)
    masks = jax.tree.map(
        lambda leaf: jnp.asarray(rng.random(leaf.shape) < 0.4), state.masks["params"]
    )
    masks = state.masks | {"params": thin(masks)}
    variables = jax.tree.map(lambda m, v: m * v, masks, state.variables)
    return state._replace(masks=masks, variables=variables, round=jnp.int32(3))


def play(build, model, clients, thin, times=3, **options):
    algorithm = build(
        model.apply, learning_rate=0.3, local_epochs=2, batch_size=3, **options
    )
    state, keys = start(algorithm, model, thin), map(jax.random.key, range(times))
    states, infos = run_rounds(jax.jit(algorithm.step), state, clients, keys)
    return states[-1], infos


def assert_same(found, expected):
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

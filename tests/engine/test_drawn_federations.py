"""Whatever users combine gives a right round, or one error that names the culprit."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fedsparsify_jax import algorithms, client_map, masks, models, trees
from fedsparsify_jax.engine.wrappers.faults import Faults
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import ClientData

CLASSES, FEATURES, LENGTH, FINAL = 3, 4, 6, 0.5
# Every piece goes with the word that an error about it must have; "" for good ones.
DTYPES = {"float32": "", "float16": "", "bfloat16": "", "int32": "params", "bool": "w"}
OPTIMIZERS = {
    "default": (None, ""),
    "adamw": (optax.adamw(0.01), ""),
    "schedule": (optax.sgd(optax.cosine_decay_schedule(0.1, 9), momentum=0.9), ""),
    "polyak": (optax.polyak_sgd(0.1), ""),
    "clipped": (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), ""),
    "steps": (optax.MultiSteps(optax.sgd(0.1), 2), ""),
    "not called": (optax.sgd, "optimizer"),
    "a rate": (0.1, "optimizer"),
    "lookahead": (optax.lookahead(optax.sgd(0.1), 2, 0.5), "optimizer"),
}


def squares(outputs, y):
    return jnp.mean((outputs - y[:, None]) ** 2, axis=-1)


LOSSES = {
    "default": (None, ""),
    "squares": (squares, ""),
    "mean": (lambda o, y: jnp.mean(squares(o, y)), "loss_fn"),
    "column": (lambda o, y: squares(o, y)[:, None], "loss_fn"),
    "whole": (lambda o, y: squares(o, y).astype(jnp.int32), "loss_fn"),
}
EXTRAS = {
    "plain": {},
    "faults": {"faults": Faults(dropout=0.3, straggle=0.3, broken=0.1)},
    "clipped": {"clip_norm": 0.1},
    "average": {"server_ema": 0.9},
    "look-ahead": {"server_lookahead": 0.5},
    "chunks": {"client_map": client_map.chunked(1)},
    "some": {"participation": 0.67},
}
METHODS = {
    "fedavg": (algorithms.fedavg, False),
    "global": (algorithms.fedsparsify_global, True),
    "local": (algorithms.fedsparsify_local, True),
}

shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
leaves = st.tuples(shapes, st.sampled_from(list(DTYPES) + ["float32"] * 6))
names = st.sampled_from(["w", "kernel", "bias", "0", "a b"])
params_trees = st.recursive(
    leaves.map(lambda leaf: ("leaf", leaf)),
    lambda inner: st.one_of(
        st.dictionaries(names, inner, max_size=2),
        st.lists(inner, max_size=2),
        st.lists(inner, max_size=2).map(lambda branches: ("tuple", branches)),
    ),
    max_leaves=4,
)


def grown(tree):
    """The arrays of a drawn tree: no leaf is zero, and no two have the same size."""
    if isinstance(tree, dict):
        return {name: grown(branch) for name, branch in tree.items()}
    if isinstance(tree, list):
        return [grown(branch) for branch in tree]
    kind, content = tree
    if kind == "tuple":
        return tuple(grown(branch) for branch in content)
    shape, dtype = content
    size = int(np.prod(shape))
    return jnp.linspace(0.5, 1.5, size).reshape(shape).astype(dtype)


def outputs_of(params, x):
    """Logits to which every parameter adds something of its own."""
    total = sum(
        jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(params)
    )
    return x[:, :CLASSES] * total


def federation(sizes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(sizes), LENGTH, FEATURES)).astype(np.float32)
    y = rng.integers(0, CLASSES, (len(sizes), LENGTH)).astype(np.int32)
    return ClientData(jnp.asarray(x), jnp.asarray(y), jnp.asarray(sizes, jnp.int32))


def culprits(params, drawn_dtypes, optimizer, loss):
    """The words of which an error must have one; none if the round must succeed."""
    words = {OPTIMIZERS[optimizer][1], LOSSES[loss][1]}
    words |= {"params" if DTYPES[dtype] else "" for dtype in drawn_dtypes}
    if not jax.tree.leaves(params):
        words.add("params")
    return words - {""}


def play(params, sizes, method, optimizer, loss, extra):
    build, prunes = METHODS[method]
    options = dict(EXTRAS[extra])
    options |= {"schedule": lambda t: FINAL} if prunes else {}
    for name, value in (
        ("optimizer", OPTIMIZERS[optimizer][0]),
        ("loss_fn", LOSSES[loss][0]),
    ):
        if value is not None:
            options[name] = value
    model = models.from_functions(lambda key: params, outputs_of)
    algorithm = build(model.apply, local_epochs=1, batch_size=4, **options)
    state = algorithm.init(jax.random.key(0), {"params": params})
    with jax.debug_nans(False):  # of a round in which nobody is merged
        return state, jax.jit(algorithm.step)(
            jax.random.key(1), state, federation(sizes)
        )


@settings(max_examples=40)
@given(
    tree=params_trees,
    sizes=st.lists(st.integers(0, LENGTH), min_size=2, max_size=3),
    method=st.sampled_from(list(METHODS)),
    optimizer=st.sampled_from([*OPTIMIZERS, *["default"] * 6]),
    loss=st.sampled_from([*LOSSES, *["default"] * 4]),
    extra=st.sampled_from(list(EXTRAS)),
)
def test_a_right_round_or_an_error_that_names_the_culprit(
    tree, sizes, method, optimizer, loss, extra
):
    params = grown(tree)
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(params)}
    words = culprits(params, dtypes, optimizer, loss)
    event("wrong" if words else "right")
    play_it = functools.partial(play, params, sizes, method, optimizer, loss, extra)
    if words:
        with pytest.raises(InputError) as error:
            play_it()
        assert any(word in str(error.value) for word in words)
        return
    before, (state, info) = play_it()
    chex.assert_trees_all_equal_shapes_and_dtypes(state, before)
    assert int(state.round) == 1
    merged = int(info.merged)
    assert (
        merged
        <= len(info.cohort)
        == merged
        + int(info.dropped)
        + int(info.rejected)
        + sum(sizes[i] == 0 for i in info.cohort.tolist())
    )
    if merged == 0:
        chex.assert_trees_all_equal(state.variables, before.variables)
        return
    assert np.isfinite(info.loss)
    chex.assert_tree_all_finite(state.variables)
    chex.assert_trees_all_equal(
        state.variables, masks.apply(state.masks, state.variables)
    )
    if method == "global":
        size = trees.size(params)
        pruned = size - int(trees.nonzeros(state.masks))
        assert pruned == int(FINAL * size)

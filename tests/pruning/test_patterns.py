"""N of every M inputs, and whole channels, against loops in NumPy."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsparsify_jax import masks, pruning
from fedsparsify_jax.pruning import patterns

DENSE, CONV = (12, 5), (3, 2, 8, 3)


def scores_of(seed, ties=True):
    """A network of a convolution and a dense layer, with biases, and statistics."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        values = rng.normal(size=shape)
        return jnp.asarray(np.round(values) if ties else values, jnp.float32)

    return {
        "params": {
            "Conv_0": {"kernel": draw(*CONV), "bias": draw(3)},
            "Dense_0": {"kernel": draw(*DENSE), "bias": draw(5)},
        },
        "batch_stats": {"mean": draw(3)},
    }


def group_oracle(kernel, size, count, allowed):
    """Keeps the `count` largest of every `size` inputs, in a loop over all places."""
    result = np.zeros(kernel.shape, bool)
    *window, inputs, outputs = kernel.shape
    for place in itertools.product(*map(range, window), range(outputs)):
        *at, output = place
        for start in range(0, inputs, size):
            index = [(*at, i, output) for i in range(start, start + size)]
            index = [i for i in index if allowed[i]]
            order = sorted(index, key=lambda i: (-kernel[i], i))
            for i in order[:count]:
                result[i] = True
    return result


@given(
    st.integers(0, 2**31),
    st.sampled_from([("2:4", 4), ("1:4", 4), ("1:2", 2), ("3:4", 4)]),
    st.floats(0, 1),
    st.booleans(),
)
def test_n_of_m_is_that_of_a_loop_over_groups(seed, pattern, sparsity, inside):
    name, size = pattern
    scores = scores_of(seed)
    drawn = np.random.default_rng(seed + 1)
    within = jax.tree.map(lambda s: jnp.asarray(drawn.random(s.shape) < 0.6), scores)
    kept = patterns.selector(name)(scores, sparsity, within if inside else None)
    least = int(name[0])
    count = max(size - math.floor(np.float32(sparsity) * size + 1e-4), least)
    for layer in ("Conv_0", "Dense_0"):
        kernel = np.asarray(scores["params"][layer]["kernel"])
        allowed = np.ones(kernel.shape, bool)
        if inside:
            allowed = np.asarray(within["params"][layer]["kernel"])
        np.testing.assert_array_equal(
            kept["params"][layer]["kernel"],
            group_oracle(kernel, size, count, allowed),
        )
        assert kept["params"][layer]["bias"].all()
    assert kept["batch_stats"]["mean"].all()


@pytest.mark.parametrize("size", [2, 3, 7, 10, 49, patterns.MOST])
def test_the_share_of_every_pattern_leaves_exactly_n(size):
    scores = {"kernel": jnp.arange(2.0 * size).reshape(-1, 1)}
    traced = jax.jit(lambda s, x: patterns.n_of_m(x, groups, s))
    for least in {1, size // 2, size - 1}:
        groups = patterns.Groups(least, size)
        for sparsity in (groups.sparsity, jnp.float32(groups.sparsity)):
            kept = traced.__wrapped__(sparsity, scores)["kernel"]
            assert kept.reshape(2, size).sum(axis=1).tolist() == [least, least]
            assert kept.reshape(2, size)[:, -least:].all()


def channel_oracle(scores, sparsity, scope, spared, biases, alive):
    """Which units stay, layer by layer, from sums over a unit's weights."""
    sums = {}
    for layer in ("Conv_0", "Dense_0"):
        if layer in spared:
            continue
        kernel, bias = (
            np.asarray(scores["params"][layer][k], float) for k in ("kernel", "bias")
        )
        total = kernel.reshape(-1, kernel.shape[-1]).sum(axis=0)
        sums[layer] = total + (bias if biases else 0)
    kept = {}
    groups = [list(sums)] if scope == "global" else [[layer] for layer in sums]
    for group in groups:
        units = [(layer, i) for layer in group for i in range(len(sums[layer]))]
        best = {
            (layer, max(np.flatnonzero(alive[layer]), key=lambda i: sums[layer][i]))
            for layer in group
        }
        living = [u for u in units if alive[u[0]][u[1]]]
        norms = {n: np.linalg.norm(sums[n][np.array(alive[n])]) for n in group}
        order = sorted(
            living, key=lambda u: (u not in best, -sums[u[0]][u[1]] / norms[u[0]])
        )
        count = max(len(units) - math.floor(sparsity * len(units)), len(best))
        for layer in group:
            kept[layer] = [(layer, i) in order[:count] for i in range(len(sums[layer]))]
    return kept


@functools.cache
def selection(scope, prunable, *spared):
    select = patterns.selector("channel", scope=scope, prunable=prunable, spared=spared)
    return jax.jit(select)


@given(
    st.integers(0, 2**31),
    st.sampled_from(["global", "layer"]),
    st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    st.sampled_from([(), ("Dense_0",)]),
    st.booleans(),
)
def test_channels_are_those_of_sums_over_units(seed, scope, sparsity, spared, biases):
    scores = scores_of(seed, ties=False)
    prunable = None if biases else masks.kernels_only
    paths = [f"params/{layer}" for layer in spared]
    select = selection(scope, prunable, *paths)
    within, alive = None, {"Conv_0": [True] * 3, "Dense_0": [True] * 5}
    for share in (sparsity / 2, sparsity):  # the second inside the first
        kept = select(scores, share, within)
        expected = channel_oracle(scores, share, scope, spared, biases, alive)
        for layer in ("Conv_0", "Dense_0"):
            kernel, bias = (kept["params"][layer][k] for k in ("kernel", "bias"))
            units = np.asarray(kernel).reshape(-1, kernel.shape[-1])
            assert (units == units[0]).all()  # whole channels
            stay = expected.get(layer, [True] * units.shape[1])
            assert units[0].tolist() == stay
            assert bias.tolist() == (stay if biases else [True] * len(stay))
            assert units[0].any()
            alive[layer] = stay
        assert kept["batch_stats"]["mean"].all()
        within = kept


@pytest.mark.parametrize("whole", [False, True])
def test_a_norm_loses_the_channels_in_front_of_it_and_has_no_vote(whole):
    layers = {
        "Conv_0": {
            "kernel": jnp.array([[1.0, 4.0, 2.0, 3.0]]),
            "bias": jnp.zeros(4),
        },
        "BatchNorm_0": {"scale": jnp.array([9.0, 0, 9, 9]), "bias": jnp.ones(4)},
        "BatchNorm_1": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
    }
    kept = pruning.channels(
        {"params": layers},
        0.5,
        prunable=masks.kernels_only if whole else None,
        norms={"params/Conv_0": "params/BatchNorm_0"},
    )["params"]
    stay = [False, True, False, True]
    assert kept["Conv_0"]["kernel"].tolist() == [stay]
    for leaf in ("scale", "bias"):
        assert kept["BatchNorm_0"][leaf].tolist() == ([True] * 4 if whole else stay)
        assert kept["BatchNorm_1"][leaf].all()


def test_layers_of_small_weights_keep_their_share():
    """The second layer is the first with a millionth of its scores."""
    scores = jnp.arange(1.0, 13.0).reshape(2, 6)
    tree = {"a": {"kernel": scores}, "b": {"kernel": 1e-6 * scores}}
    kept = pruning.channels(tree, 0.5)
    for layer in ("a", "b"):
        assert kept[layer]["kernel"][0].tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_channels_of_all_magnitudes_can_be_compared(scale):
    tree = {"a": {"kernel": jnp.full((2, 4), scale)}, "b": {"kernel": jnp.eye(2)}}
    kept = pruning.channels(tree, 0.5)
    assert sum(int(layer["kernel"].any(0).sum()) for layer in kept.values()) == 3


def test_a_nan_goes_first_and_alone_and_infinity_last():
    with jax.debug_nans(False):
        kernel = jnp.array([[3.0, jnp.nan, 4.0, jnp.inf, 5.0]])
        kept = pruning.channels({"a": {"kernel": kernel}}, 0.4)["a"]["kernel"]
    assert kept.tolist() == [[False, False, True, True, True]]


def test_squares_order_channels_by_their_l2_norm():
    """Norms 5 and 4.9: more weight, but in smaller parts, is less."""
    kernel = jnp.array([[5.0, 2.9], [0.0, 2.8], [0.0, 2.8]])
    tree = {"params": {"Dense_0": {"kernel": jnp.square(kernel)}}}
    np.testing.assert_allclose(jnp.linalg.norm(kernel, axis=0), [5, 4.9], atol=0.05)
    kept = pruning.channels(tree, 0.5)["params"]["Dense_0"]["kernel"]
    assert kept[0].tolist() == [True, False]


def test_a_layer_that_does_not_divide_is_named_unless_it_is_spared():
    tree = {"params": {"Net_0": {"Conv_0": {"kernel": jnp.ones((3, 3, 1, 4))}}}}
    tree["params"]["Dense_0"] = {"kernel": jnp.ones((8, 2))}
    with pytest.raises(ValueError, match=r"2:4 .* layer Net_0/Conv_0, which has 1"):
        patterns.selector("2:4")(tree, 0.5, None)
    for name in ("Net_0", "Conv_0", "Net_0/Conv_0"):
        select = patterns.selector("2:4", prunable=masks.sparing(name))
        kept = select(tree, 0.5, None)["params"]
        assert kept["Net_0"]["Conv_0"]["kernel"].all()
        assert kept["Dense_0"]["kernel"].sum() == 8


@pytest.mark.parametrize(
    "pattern", ["", "2", "4:4", "5:4", "0:4", "1:65", "2:4:6", "-1:4", "filter", "2:4 "]
)
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="it must be unstructured, channel, or N:M"):
        patterns.selector(pattern)


@pytest.mark.parametrize("pattern, scope", [("2:4", "layer"), ("channel", "erk")])
def test_scopes_that_a_pattern_has_no_use_for_are_refused(pattern, scope):
    with pytest.raises(ValueError, match=f"scope is {scope}"):
        patterns.selector(pattern, scope=scope)


def test_the_unstructured_pattern_is_prune():
    scores = scores_of(0)
    for scope in ("global", "layer"):
        one = patterns.selector(scope=scope)(scores, 0.4, None)
        other = pruning.prune(scores, 0.4, scope=scope)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))


@pytest.mark.parametrize("pattern", ["2:4", "channel"])
def test_no_sort_is_compiled_and_clients_may_be_batched(pattern):
    select = patterns.selector(pattern)
    program = jax.jit(lambda s, x: select(x, s, None))
    scores = scores_of(0)
    assert "sort" not in program.lower(0.5, scores).as_text()
    two = jax.tree.map(lambda a, b: jnp.stack([a, b]), scores, scores_of(1))
    together = jax.vmap(lambda x: select(x, jnp.float32(0.5), None))(two)
    for number in range(2):
        alone = program(jnp.float32(0.5), scores_of(number))
        for one, other in zip(
            jax.tree.leaves(together), jax.tree.leaves(alone), strict=True
        ):
            np.testing.assert_array_equal(one[number], other)

"""Compacted networks are smaller and answer as before, constants and borders too."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pruned_networks import CASES, inputs, outputs, pruned

from fedsparsify_jax import trees
from fedsparsify_jax.deploy.graph import nodes
from fedsparsify_jax.deploy.graph.compaction import compact
from fedsparsify_jax.deploy.graph.nodes import Node
from fedsparsify_jax.deploy.saved import compacted
from fedsparsify_jax.models.adapters.layers import layers_of
from fedsparsify_jax.training.compact.structure import alive_units, stages_of

START = Node("input", (), (4, 4, 1), {"dtype": "float32"})
CONV = {"strides": [1, 1], "dilation": [1, 1]}


@pytest.mark.parametrize("sparsity", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_a_compacted_network_answers_as_before(name, sparsity):
    case = CASES[name]
    saved = pruned(case, sparsity, biases=sparsity == 1)
    small, x = compacted(saved), inputs(case)
    # The scale of the inputs is a number of the graph.
    assert trees.size(small.variables) <= trees.size(saved.variables) + 1
    np.testing.assert_allclose(outputs(small, x), outputs(saved, x), atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "vgg", "resnet"])
def test_most_of_a_sparse_network_goes(name):
    saved = pruned(CASES[name], 0.97)
    assert trees.size(compacted(saved).variables) < trees.size(saved.variables) / 4


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), sparsity=st.floats(0.5, 1), biases=st.booleans())
def test_any_masks_of_a_network_with_padding_and_shortcuts(seed, sparsity, biases):
    case = CASES["resnet of odd size"]
    saved = pruned(case, sparsity, seed=seed, biases=biases)
    x = inputs(case, 2)
    np.testing.assert_allclose(
        outputs(compacted(saved), x), outputs(saved, x), atol=1e-4, rtol=1e-4
    )


def run(graph, x):
    return np.asarray(nodes.forward(graph, nodes.variables(graph), x, conv="xla"))


def constant_channels(padding):
    """Three channels of which two are constants, 2 and -1, under a 3x3 kernel."""
    rng = np.random.default_rng(0)
    first = {
        "kernel": np.array([[[[1.0, 0.0, 0.0]]]], np.float32),
        "bias": np.array([0.0, 2.0, -1.0], np.float32),
    }
    second = {"kernel": rng.normal(size=(3, 3, 3, 2)).astype(np.float32)}
    whole = {"padding": [[0, 0], [0, 0]], **CONV}
    size = 4 if padding else 2
    return (
        START,
        Node("conv", (0,), (4, 4, 3), whole, first),
        Node("conv", (1,), (size, size, 2), {"padding": padding, **CONV}, second),
    ), rng.normal(size=(2, 4, 4, 1)).astype(np.float32)


def test_constants_are_folded_into_the_bias_where_nothing_is_padded():
    graph, x = constant_channels([[0, 0], [0, 0]])
    graph = (*graph[:2], graph[2]._replace(shape=(2, 2, 2)))
    small = compact(graph)
    assert [node.channels for node in small] == [1, 1, 2]
    kernel = graph[2].arrays["kernel"].sum(axis=(0, 1))
    expected = 2 * kernel[1] - kernel[2]
    np.testing.assert_allclose(small[2].arrays["bias"], expected, atol=1e-5)
    np.testing.assert_allclose(run(small, x), run(graph, x), atol=1e-5)


def test_one_constant_channel_stays_for_all_where_zeros_are_padded():
    graph, x = constant_channels([[1, 1], [1, 1]])
    small = compact(graph)
    assert [node.channels for node in small] == [1, 2, 2]
    # The larger one, 2, which is followed by a kernel for -1 as well.
    assert small[1].arrays["bias"].tolist() == [0, 2]
    np.testing.assert_allclose(run(small, x), run(graph, x), atol=1e-5)


def test_inputs_that_nobody_reads_are_not_read():
    kernel = np.zeros((16, 2), np.float32)
    kernel[[3, 7], [0, 1]] = 1
    flat = Node("reshape", (0,), (16,))
    graph = (START, flat, Node("dense", (1,), (2,), {}, {"kernel": kernel}))
    small = compact(graph)
    assert [node.kind for node in small] == ["input", "reshape", "take", "dense"]
    assert small[2].arrays["indices"].tolist() == [3, 7]
    x = np.arange(32, dtype=np.float32).reshape(2, 4, 4, 1)
    assert run(small, x).tolist() == [[3, 7], [19, 23]]


def test_a_branch_of_zeros_is_left_out():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(1, 1, 1, 3)).astype(np.float32)
    dead = {"kernel": np.zeros((3, 3, 3, 3), np.float32)}
    one = {"padding": [[0, 0], [0, 0]], **CONV}
    two = {"padding": [[1, 1], [1, 1]], **CONV}
    graph = (
        START,
        Node("conv", (0,), (4, 4, 3), one, {"kernel": kernel}),
        Node("relu", (1,), (4, 4, 3)),
        Node("conv", (2,), (4, 4, 3), two, dead),
        Node("add", (1, 3), (4, 4, 3)),
    )
    small = compact(graph)
    assert "relu" not in {node.kind for node in small}
    x = rng.normal(size=(2, 4, 4, 1)).astype(np.float32)
    np.testing.assert_array_equal(run(small, x), run(graph, x))


def test_what_training_finds_dead_is_removed():
    """Units that the trainer's compact form leaves out are gone here as well."""
    case = CASES["mlp"]
    saved = pruned(case, 0.85, biases=False)
    example = jax.ShapeDtypeStruct((1, *case.input_shape), "uint8")
    stages = stages_of(layers_of(saved.model.apply, saved.variables, example))
    alive = [int(units.sum()) for units in alive_units(stages, saved.masks)]
    layers = compacted(saved).about["layers"]
    widths = [layer["shape"][-1] for layer in layers if layer["kind"] == "dense"]
    assert all(width <= most for width, most in zip(widths, alive[1:], strict=True))
    assert widths[0] < 24 and widths[-1] == case.num_classes

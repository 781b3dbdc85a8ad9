"""A network's graph computes what the network does, in few nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pruned_networks import CASES, inputs, outputs, pruned

from fedsparsify_jax import models
from fedsparsify_jax.deploy.graph import nodes
from fedsparsify_jax.deploy.graph.simplify import simplify
from fedsparsify_jax.deploy.graph.tracing import UnknownOperationError, trace
from fedsparsify_jax.deploy.saved import graph_of
from fedsparsify_jax.errors import InputError


@pytest.mark.parametrize("name", CASES)
def test_a_graph_computes_what_the_network_does(name):
    saved, x = pruned(CASES[name], 0.3), inputs(CASES[name])
    graph = graph_of(saved)
    y = nodes.forward(graph, nodes.variables(graph), x)
    np.testing.assert_allclose(y, outputs(saved, x), atol=1e-5)


def test_pools_norms_and_biases_are_single_nodes():
    kinds = [node.kind for node in graph_of(pruned(CASES["vgg"], 0.0))]
    block = ["conv", "relu"]
    stages = [*block, *block, "max_pool", *block, "max_pool", *block, "max_pool"]
    assert kinds == ["input", *stages, "reshape", "dense"]
    kinds = [node.kind for node in graph_of(pruned(CASES["brain age"], 0.0))]
    block = ["conv", "instance_norm", "max_pool", "relu"]
    end = ["conv", "instance_norm", "relu", "mean_pool", "conv", "mean"]
    assert kinds == ["input", "reshape", *block, *block, *end]


def test_what_differs_by_platform_is_traced_in_its_general_form():
    options = {"widths": (2,), "hidden": 3, "conv": "auto"}
    model = models.build("cnn", input_shape=(4, 4), num_classes=2, **options)
    values = model.init(jax.random.key(0))
    kinds = [node.kind for node in trace(model.apply, values, (4, 4), "float32")]
    assert kinds.count("conv") == 2


def test_a_description_and_arrays_make_the_same_graph():
    graph = graph_of(pruned(CASES["resnet"], 0.5))
    again = nodes.from_description(nodes.describe(graph), nodes.variables(graph))
    assert nodes.describe(again) == nodes.describe(graph)
    x = inputs(CASES["resnet"])
    first, second = (nodes.forward(g, nodes.variables(g), x) for g in (graph, again))
    np.testing.assert_array_equal(first, second)


WRONG = {
    "no list": {},
    "no layers": [],
    "a kind that is none": [{"kind": "loop"}],
    "inputs from the future": [{}, {"kind": "relu", "inputs": [1]}],
    "inputs below zero": [{}, {"kind": "relu", "inputs": [-1]}],
    "no inputs": [{}, {"kind": "relu", "inputs": []}],
    "another shape": [{}, {"kind": "relu", "shape": [3]}],
    "a huge shape": [{"shape": [2**20, 2**20]}],
    "settings missing": [{}, {"kind": "max_pool"}],
    "arrays missing": [{}, {"kind": "dense"}],
    "an unknown dtype": [{"settings": {"dtype": "float3"}}, {"kind": "relu"}],
    "a second input": [{}, {}],
    "a field too many": [{"more": 1}],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_descriptions_that_cannot_be_are_refused(wrong):
    plain = {"kind": "input", "inputs": [], "shape": [2], "name": ""}
    plain["settings"] = {"dtype": "float32"}
    content = WRONG[wrong]
    if isinstance(content, list):
        follows = plain | {"inputs": [0], "settings": {}}
        content = [
            (follows if n and entry else plain) | entry
            for n, entry in enumerate(content)
        ]
    with pytest.raises(InputError, match="layer"):
        nodes.from_description(content, {"params": {}})


def test_the_users_own_functions_are_traced():
    def init(key):
        return {"w": jax.random.normal(key, (4, 3)), "v": jnp.ones((3, 2))}

    def apply(params, x):
        hidden = jnp.tanh(x @ params["w"]) ** 2
        return jax.nn.sigmoid(3 - hidden @ params["v"]) * 2

    model = models.from_functions(init, apply)
    values = model.init(jax.random.key(0))
    graph = simplify(trace(model.apply, values, (4,), "float32"))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    y = nodes.forward(graph, nodes.variables(graph), x)
    np.testing.assert_allclose(y, model.apply(values, x)[0], atol=1e-6)


@pytest.mark.parametrize(
    "apply",
    [
        lambda w, x: x @ x.T,
        lambda w, x: x - jnp.mean(x, axis=0, keepdims=True),
        lambda w, x: jnp.sort(x),
        lambda w, x: x.reshape(-1, 2),
        lambda w, x: w[None, :2],
        lambda w, x: x[:1],
        lambda w, x: 1 / x,
        lambda w, x: jnp.sum(x, axis=1),
        lambda w, x: jnp.maximum(x, 1.0),
        lambda w, x: jnp.pad(x, ((0, 0), (0, 1)), constant_values=1.0),
        lambda w, x: jnp.cumsum(x, axis=1),
    ],
)
def test_operations_without_a_node_are_refused_by_name(apply):
    def forward(values, x):
        return apply(values["params"], x), {}

    values = {"params": jnp.ones(4)}
    with pytest.raises(UnknownOperationError, match=r"not known|depend|no axis"):
        simplify(trace(forward, values, (4,), "float32"))

"""ONNX files answer in onnxruntime as the network does, for any number of examples."""

import sys
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx
from pruned_networks import CASES, Case, inputs, outputs, pruned

from fedsparsify_jax import deploy, models
from fedsparsify_jax.deploy.formats.onnx import to_onnx
from fedsparsify_jax.deploy.formats.onnx_arrays import weights
from fedsparsify_jax.deploy.saved import compacted
from fedsparsify_jax.errors import InputError

WHOLE = {
    "mlp": Case("mlp", (28, 28), num_classes=10),
    "cnn": Case("cnn", (32, 32, 3), num_classes=10),
    "vgg16_bn": Case("vgg16_bn", (32, 32, 3), num_classes=100),
    "resnet56": Case("resnet56", (32, 32, 3), num_classes=10),
    "brain_age_cnn": Case("brain_age_cnn", (64, 64, 64), "float32", 1),
}
"""The paper's networks as they are; of brain age a smaller volume."""


def answers(content, x):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": x})[0]


@pytest.mark.parametrize("name", WHOLE)
def test_the_papers_networks_answer_the_same_in_onnxruntime(name):
    case = WHOLE[name]
    # The sums of 27 blocks without training grow large unless each adds little.
    saved = pruned(case, 0.5, biases=False, gain=0.5 if name == "resnet56" else 2)
    x = inputs(case, 2)
    expected = outputs(saved, x)
    assert np.ptp(expected) > 0.01
    y = answers(to_onnx(saved), x)
    np.testing.assert_allclose(y, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_compacted_or_not_dense_or_not(name, dense):
    case = CASES[name]
    saved, x = pruned(case, 0.85, biases=False), inputs(case)
    for model in (saved, compacted(saved)):
        content = to_onnx(model, dense=dense)
        np.testing.assert_allclose(answers(content, x), outputs(saved, x), atol=1e-4)
        stored = onnx.load_model_from_string(content).graph.sparse_initializer
        assert not (dense and stored)


def test_a_graph_is_gemm_conv_and_what_is_between_them():
    graph = onnx.load_model_from_string(to_onnx(pruned(CASES["vgg"], 0.0))).graph
    block = ["Conv", "Relu"]
    stages = [*block, *block, "MaxPool", *block, "MaxPool", *block, "MaxPool"]
    operations = [node.op_type for node in graph.node]
    assert operations == ["Transpose", *stages, "Reshape", "Gemm", "Identity"]
    (batch, *shape) = graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param == "batch" and [d.dim_value for d in shape] == [8, 8, 3]


def test_sparse_weights_make_a_small_file_and_are_read_back():
    saved = pruned(WHOLE["mlp"], 0.95)
    small, large = to_onnx(saved), to_onnx(saved, dense=True)
    # A value of 4 bytes and a position of 8 where a dense weight has 4.
    assert len(small) < 0.16 * len(large)


def test_weights_of_both_kinds_are_read(tmp_path):
    saved = pruned(CASES["mlp"], 0.9, biases=False)
    for dense in (False, True):
        path = tmp_path / "model.onnx"
        path.write_bytes(to_onnx(saved, dense=dense))
        kernel = saved.variables["params"]["Dense_0"]["kernel"]
        np.testing.assert_array_equal(weights(path)["Dense_0/kernel"], kernel)


def test_a_model_without_an_onnx_form_is_refused():
    case = Case("lstm", (7,), "int32", 2, {"vocabulary": 20, "units": [3]})
    with pytest.raises(InputError, match=r"'lstm' has no form .* use the format safet"):
        to_onnx(pruned(case, 0.0))


@pytest.mark.parametrize("package", ["flatbuffers", "onnx", "onnxruntime"])
def test_without_the_extra_its_command_is_named(package, monkeypatch, tmp_path):
    path = deploy.save(tmp_path / "model.onnx", pruned(CASES["mlp"], 0.5))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'fedsparsify_jax\[onnx\]'"):
        if package == "onnxruntime":
            deploy.runnable(path)
        else:
            ending = "onnx" if package == "onnx" else "stablehlo"
            deploy.save(tmp_path / f"new.{ending}", pruned(CASES["mlp"], 0.5))
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def own_network(rngs):
    """A convolutional network of a user, in Flax NNX."""
    return nnx.Sequential(
        nnx.Conv(2, 5, (3, 3), strides=2, rngs=rngs),
        nnx.relu,
        nnx.Conv(5, 4, (2, 2), padding="VALID", use_bias=False, rngs=rngs),
        jnp.tanh,
        lambda x: x.reshape(x.shape[0], -1),
        nnx.Linear(36, 3, rngs=rngs),
        nnx.sigmoid,
    )


def test_networks_of_the_users_own_are_exported(tmp_path):
    model = models.from_nnx(own_network)
    values = model.init(jax.random.key(0))
    saved = deploy.traced_model(model.apply, values, (8, 8, 2), task="regression")
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 2)).astype(np.float32)
    expected = model.apply(values, x)[0]
    for name, compact in product(deploy.FORMATS, (False, True)):
        path = deploy.save(tmp_path / f"model.{name}", saved, compact=compact)
        file = deploy.runnable(path)
        np.testing.assert_allclose(file.run(x), expected, atol=1e-5)
        assert (file.outputs, file.about["task"]) == (3, "regression")

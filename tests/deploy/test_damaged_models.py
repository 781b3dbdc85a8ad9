"""Damaged model files end in one line that names the file, or in a model."""

import random
import re

import damaged
import numpy as np
import onnx
import pytest
from damaged_models import MODEL_FILES, outcome

from fedsparsify_jax import deploy
from fedsparsify_jax.deploy import running
from fedsparsify_jax.deploy.formats.digests import with_digest
from fedsparsify_jax.errors import InputError


@pytest.mark.parametrize("name", MODEL_FILES)
def test_damage_is_refused_or_harmless(name, tmp_path):
    file, rng = MODEL_FILES[name], random.Random(name)
    whole, path = file.content, tmp_path / f"model.{file.format}"
    path.write_bytes(whole)
    assert outcome(path) == "accepted"
    outcomes = []
    for _ in range(25):
        path.write_bytes(damaged.damage(rng, whole))
        outcomes.append(outcome(path))
    assert outcomes.count("refused") > 10


def other_model(kind, shape, operation="Flatten"):
    """An ONNX model of another program."""
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node(operation, ["a"], ["b"])],
        "other",
        [helper.make_tensor_value_info("a", kind, shape)],
        [helper.make_tensor_value_info("b", kind, ["n", 4])],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return model.SerializeToString()


def test_onnx_files_of_others_are_refused(tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(other_model(onnx.TensorProto.FLOAT, ["n", 2, 2]))
    with pytest.raises(InputError, match="no whole model file of this library"):
        deploy.runnable(path)


def test_onnx_files_with_a_forged_digest_run_if_they_can(tmp_path):
    path, floats = tmp_path / "other.onnx", onnx.TensorProto.FLOAT
    whole = MODEL_FILES["mlp of vectors, onnx"].content
    (end,) = re.findall(rb"(?s)(.{24})[0-9a-f]{64}\Z", whole)
    path.write_bytes(with_digest(other_model(floats, ["n", 2, 2]), end))
    model = deploy.runnable(path)
    x = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    assert running.batched(model, x).tolist() == x.reshape(2, 4).tolist()
    # A result of other sizes than the file says.
    with pytest.raises(InputError, match="the model cannot be run"):
        running.batched(model._replace(outputs=5), x)
    strings = onnx.TensorProto.STRING
    for content, message in [
        (other_model(floats, ["n", "m", 2]), "no fixed shape"),
        (other_model(strings, ["n", 4], "Identity"), "expected numbers"),
        (other_model(floats, [4], "Identity"), "no readable ONNX model"),
    ]:
        path.write_bytes(with_digest(content, end))
        with pytest.raises(InputError, match=message):
            deploy.runnable(path)


def test_the_digest_is_a_property_of_the_model():
    whole = MODEL_FILES["mlp of vectors, onnx"].content
    properties = onnx.load_model_from_string(whole).metadata_props
    assert [entry.key for entry in properties] == ["fedsparsify", "fedsparsify_digest"]
    assert whole.decode("latin-1").endswith(properties[1].value)

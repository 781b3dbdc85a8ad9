"""Damaged model files end in one line that names the file, or in a model."""

import random

import damaged
import numpy as np
import onnx
import pytest
from damaged_models import MODEL_FILES, outcome

from fedsparsify_jax import deploy
from fedsparsify_jax.deploy import running
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


def identity(kind, shape, operation="Flatten", **attributes):
    """An ONNX model of somebody else."""
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node(operation, ["a"], ["b"], **attributes)],
        "other",
        [helper.make_tensor_value_info("a", kind, shape)],
        [helper.make_tensor_value_info("b", kind, ["n", 4])],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return model.SerializeToString()


def test_onnx_files_of_others_run_if_they_can(tmp_path):
    path, floats = tmp_path / "other.onnx", onnx.TensorProto.FLOAT
    path.write_bytes(identity(floats, ["n", 2, 2]))
    model = deploy.runnable(path)
    x = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    assert running.batched(model, x).tolist() == x.reshape(2, 4).tolist()
    # A result of other sizes than the file says.
    with pytest.raises(InputError, match="the model cannot be run"):
        running.batched(model._replace(outputs=5), x)
    for content, message in [
        (identity(floats, ["n", "m", 2]), "no fixed shape"),
        (identity(onnx.TensorProto.STRING, ["n", 4], "Identity"), "expected numbers"),
        (identity(floats, [4], "Identity"), "no readable ONNX model"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            deploy.runnable(path)

"""The final model on disk: what is written is what is read."""

import json

import jax
import numpy as np
import pytest

from fedsparsify_jax import models, trees
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.storage.model_files import (
    ARRAYS,
    DESCRIPTION,
    load_model,
    save_model,
)

ABOUT = {"model": "mlp", "num_classes": 3, "test_accuracy": None}


def test_round_trip(tmp_path):
    model = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(4,))
    variables = model.init(jax.random.key(0))
    save_model(tmp_path / "new" / "model", variables, ABOUT)
    loaded, about = load_model(str(tmp_path / "new" / "model"))
    assert about == ABOUT
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    for (name, one), (_, other) in zip(
        trees.named_leaves(variables), trees.named_leaves(loaded), strict=True
    ):
        assert isinstance(other, np.ndarray) and other.dtype == one.dtype, name
        assert np.array_equal(one, other), name


def test_collections_dtypes_and_scalars_survive(tmp_path):
    variables = {
        "params": {"a": {"w": np.array([[0.0, -1.5]], np.float32)}},
        "batch_stats": {"a": {"mean": np.float32(2.0), "steps": np.int32(7)}},
    }
    save_model(tmp_path, variables, {})
    loaded, _ = load_model(tmp_path)
    assert loaded["batch_stats"]["a"]["mean"] == 2.0
    assert loaded["batch_stats"]["a"]["steps"].dtype == np.int32
    assert np.array_equal(loaded["params"]["a"]["w"], variables["params"]["a"]["w"])


def test_a_strided_view_is_written_by_value(tmp_path):
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    save_model(tmp_path, {"params": {"t": whole.T, "every": whole[:, ::2]}}, {})
    loaded, _ = load_model(tmp_path)
    assert np.array_equal(loaded["params"]["t"], whole.T)
    assert np.array_equal(loaded["params"]["every"], whole[:, ::2])


def test_saving_again_replaces(tmp_path):
    for value in (1.0, 2.0):
        save_model(tmp_path, {"params": {"w": np.array([value])}}, {"value": value})
    loaded, about = load_model(tmp_path)
    assert loaded["params"]["w"] == [2.0] and about == {"value": 2.0}


@pytest.mark.parametrize("name", [ARRAYS, DESCRIPTION])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "not text"])
def test_damaged_files_are_one_line_of_bad_input(tmp_path, name, damage):
    save_model(tmp_path, {"params": {"w": np.ones((8, 8), np.float32)}}, ABOUT)
    path = tmp_path / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        contents = {"empty": b"", "cut": whole[:-5], "not text": b"\xff" * 40}
        path.write_bytes(contents[damage])
    with pytest.raises(InputError, match="no readable model in") as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_description_is_plain_json(tmp_path):
    save_model(tmp_path, {"params": {"w": np.ones(1)}}, ABOUT)
    assert json.loads((tmp_path / DESCRIPTION).read_text()) == ABOUT

"""Core ML packages are read back without Core ML: the constants, and what they answer.

The interpreter is written from the description of the operations of MIL, in NumPy.
"""

import gc
import sys

import coreml_reader
import numpy as np
import pytest
from pruned_networks import CASES, Case, inputs, outputs, pruned

from fedsparsify_jax import deploy
from fedsparsify_jax.deploy.formats.coreml import to_coreml
from fedsparsify_jax.deploy.packages import save_coreml
from fedsparsify_jax.deploy.saved import compacted, graph_of
from fedsparsify_jax.errors import InputError

MLP = Case("mlp", (28, 28), num_classes=10)


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Every conversion would look for circles in all that a long process has made."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def size(path):
    return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_operations_answer_as_the_network(name, dense, tmp_path):
    case = CASES[name]
    saved, x = pruned(case, 0.85, biases=False), inputs(case, 1)
    for number, model in enumerate((saved, compacted(saved))):
        path = save_coreml(tmp_path / f"{number}.mlpackage", model, dense=dense)
        program = coreml_reader.read(path)
        answers = np.concatenate([program.run(one[None]) for one in x])
        np.testing.assert_allclose(answers, outputs(saved, x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["mlp", "cnn", "vgg", "resnet"])
def test_weights_come_back_bit_for_bit_from_bits_and_values(name, tmp_path):
    saved = pruned(CASES[name], 0.9, biases=False)
    program = coreml_reader.read(save_coreml(tmp_path / "m.mlpackage", saved))
    layers = [node for node in graph_of(saved) if node.kind in ("dense", "conv")]
    assert len(program.sparse) > 0
    kernels = program.weights()
    assert len(kernels) == len(layers)
    for kernel, layer in zip(kernels, layers, strict=True):
        expected = np.moveaxis(layer.arrays["kernel"], (-1, -2), (0, 1))
        assert kernel.tobytes() == np.ascontiguousarray(expected).tobytes()


def test_negative_zeros_survive(tmp_path):
    saved = pruned(CASES["mlp"], 0.9)
    saved.variables["params"]["Dense_1"]["kernel"][0, :3] = -0.0
    program = coreml_reader.read(save_coreml(tmp_path / "m.mlpackage", saved))
    kernel = saved.variables["params"]["Dense_1"]["kernel"]
    assert program.weights()[1].T.tobytes() == kernel.tobytes()


def test_a_package_at_95_percent_is_a_twelfth_of_the_dense_one(tmp_path):
    saved = pruned(MLP, 0.95)
    small = save_coreml(tmp_path / "small.mlpackage", saved)
    large = save_coreml(tmp_path / "large.mlpackage", saved, dense=True)
    # 4 bytes for one weight in twenty and a bit for all, of 4: 0.081.
    assert 0.081 < size(small) / size(large) < 0.1


def test_a_package_is_replaced_and_nothing_else_is(tmp_path, monkeypatch):
    path = save_coreml(tmp_path / "m.mlpackage", pruned(CASES["mlp"], 0.5))
    before = size(path)
    save_coreml(path, pruned(CASES["mlp"], 0.9))
    after = size(path)
    assert after < before and list(tmp_path.iterdir()) == [path]

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left"):
        save_coreml(path, pruned(CASES["mlp"], 0.5))
    assert size(path) == after and list(tmp_path.iterdir()) == [path]
    (tmp_path / "mine.mlpackage").mkdir()
    with pytest.raises(InputError, match="it is there and no package"):
        save_coreml(tmp_path / "mine.mlpackage", pruned(CASES["mlp"], 0.5))
    with pytest.raises(InputError, match=r"it must end in \.mlpackage"):
        save_coreml(tmp_path / "m.mlmodel", pruned(CASES["mlp"], 0.5))


def test_nothing_here_reads_a_package(tmp_path):
    path = save_coreml(tmp_path / "m.mlpackage", pruned(CASES["mlp"], 0.5))
    for read in (deploy.load, deploy.runnable):
        with pytest.raises(
            InputError, match=r"is a Core ML package: .* nothing here does"
        ):
            read(path)


def test_text_models_are_refused_and_the_extra_is_named(monkeypatch):
    case = Case("lstm", (7,), "int32", 2, {"vocabulary": 20, "units": [3]})
    with pytest.raises(InputError, match="'lstm' has no form"):
        to_coreml(pruned(case, 0.0))
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(InputError, match=r"pip install 'fedsparsify_jax\[coreml\]'"):
        to_coreml(pruned(CASES["mlp"], 0.5))

"""Model files: what is written is what is read, and nothing else is."""

import json
import os
import zipfile

import jax
import numpy as np
import pytest
from pruned_networks import CASES, Case, inputs, outputs, pruned

from fedsparsify_jax import deploy, trees
from fedsparsify_jax.deploy import files, running
from fedsparsify_jax.deploy.saved import compacted
from fedsparsify_jax.errors import InputError

FASHION = Case("mlp", (28, 28), num_classes=10)


def same(one, other):
    """Whether two trees are equal bit by bit, dtypes and zeros' signs included."""
    pairs = zip(trees.named_leaves(one), trees.named_leaves(other), strict=True)
    return all(
        (name, a.dtype, a.shape, a.tobytes()) == (also, b.dtype, b.shape, b.tobytes())
        for (name, a), (also, b) in pairs
    )


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("format", ["safetensors", "npz"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "brain age"])
def test_variables_come_back_bit_for_bit(name, format, compact, tmp_path):
    saved = pruned(CASES[name], 0.7, biases=False)
    saved = compacted(saved) if compact else saved
    loaded = deploy.load(deploy.save(tmp_path / f"model.{format}", saved))
    assert same(loaded.variables, saved.variables) and same(loaded.masks, saved.masks)
    assert loaded.about == saved.about
    x = inputs(CASES[name])
    np.testing.assert_array_equal(outputs(loaded, x), outputs(saved, x))


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_odd_numbers_survive(format, tmp_path):
    saved = pruned(CASES["mlp"], 0.9)
    kernel = saved.variables["params"]["Dense_1"]["kernel"].copy()
    kernel[0, :5] = [-0.0, np.inf, np.nan, 1e-45, -1e38]
    saved.variables["params"]["Dense_1"]["kernel"] = kernel
    saved = deploy.saved_model(saved.variables, saved.about)
    loaded = deploy.load(deploy.save(tmp_path / f"model.{format}", saved))
    assert same(loaded.variables, saved.variables)


def test_a_file_at_95_percent_is_small():
    saved = pruned(FASHION, 0.95)
    dense = 4 * trees.size(saved.variables)
    assert len(files.encode(saved, "safetensors")) <= 0.08 * dense


def test_a_changed_number_is_noticed(tmp_path):
    path = deploy.save(tmp_path / "model.safetensors", pruned(CASES["mlp"], 0.5))
    whole = path.read_bytes()
    for place in range(len(whole) - 40, len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"model\.safetensors: "):
            deploy.load(path)


def test_masks_are_the_weights_that_are_left():
    masks = pruned(CASES["cnn"], 0.9).masks
    assert 0.05 < masks["params"]["Dense_0"]["kernel"].mean() < 0.15
    assert all(leaf.all() for leaf in jax.tree.leaves(masks["batch_stats"]))


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("format", deploy.FORMATS)
def test_every_format_runs(format, compact, tmp_path):
    saved, x = pruned(CASES["cnn"], 0.8, biases=False), inputs(CASES["cnn"], 7)
    path = deploy.save(tmp_path / f"model.{format}", saved, compact=compact)
    model = deploy.runnable(path)
    assert (model.input_shape, model.dtype, model.outputs) == ((8, 8, 3), np.uint8, 3)
    np.testing.assert_allclose(
        running.batched(model, x, 3), outputs(saved, x), atol=1e-4
    )


def test_a_program_names_no_paths_of_the_machine_that_made_it():
    content = files.encode(pruned(CASES["mlp"], 0.5), "stablehlo")
    assert b".py" not in content


TINY_BLOCKS = {"width": 4, "layers": 1, "heads": 2, "hidden": 5}
NO_GRAPHS = [
    Case("lstm", (7,), "int32", 2, {"vocabulary": 20, "units": [3]}),
    Case("transformer", (7,), "int32", 2, {"vocabulary": 20, **TINY_BLOCKS}),
    Case("vit_tiny", (4, 8), "float32", 2, TINY_BLOCKS),
    Case(
        "resnet18_gn",
        (4, 4),
        "float32",
        2,
        {"widths": [4], "blocks": [1], "strides": [1]},
    ),
]


@pytest.mark.parametrize("case", NO_GRAPHS, ids=lambda case: case.name)
def test_models_of_other_layers_have_all_forms_but_onnx(case, tmp_path):
    saved = pruned(case, 0.3)
    x = np.arange(2 * np.prod(case.input_shape)).reshape(2, *case.input_shape)
    x = x.astype(case.input_dtype) % 20
    for format in ("safetensors", "npz", "stablehlo"):
        model = deploy.runnable(deploy.save(tmp_path / f"model.{format}", saved))
        np.testing.assert_allclose(model.run(x), outputs(saved, x), atol=1e-5)
    for path, compact in (("a.onnx", False), ("a.npz", True)):
        with pytest.raises(InputError, match=f"'{case.name}' has no form"):
            deploy.save(tmp_path / path, saved, compact=compact)
        assert not (tmp_path / path).exists()


def test_names_and_places_that_cannot_be_written(tmp_path, monkeypatch):
    saved = pruned(CASES["mlp"], 0.5)
    (tmp_path / "directory.npz").mkdir()
    for name, message in {
        "model.pt": "must end in .safetensors, .npz, .stablehlo, .onnx",
        "none/model.npz": "there is no directory",
        "directory.npz": "it is a directory",
    }.items():
        with pytest.raises(InputError, match=message):
            deploy.save(tmp_path / name, saved)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(InputError, match="no permission to write in"):
        deploy.save(tmp_path / "model.npz", saved)
    assert [path.name for path in tmp_path.rglob("*")] == ["directory.npz"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    saved = pruned(CASES["mlp"], 0.5)
    path = deploy.save(tmp_path / "model.npz", saved)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*model.npz: No space left"):
        deploy.save(path, pruned(CASES["mlp"], 0.9))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format", deploy.FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(format, share, tmp_path):
    path = deploy.save(tmp_path / f"model.{format}", pruned(CASES["mlp"], 0.5))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="model"):
        deploy.runnable(path)


def rewritten(path, **changes):
    """Writes an npz model file again with other arrays, None to leave one out."""
    with np.load(path) as archive:
        arrays = dict(archive) | changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


def about(path, **changes):
    with np.load(path) as archive:
        content = json.loads(archive["about"].tobytes()) | changes
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def test_npz_files_that_are_no_models(tmp_path):
    saved = pruned(CASES["mlp"], 0.5)
    path = tmp_path / "model.npz"
    kernel = "params/Dense_0/kernel"
    wrong = {
        "another version of the format than 1": {"format": np.int32(2)},
        "no model file: it lacks": {"about": None},
        f"{kernel} has shape none": {kernel: None, f"mask/{kernel}": None},
        "its masks do not fit": {f"mask/{kernel}": np.zeros((36, 24), bool)},
        "is inside another one": {f"{kernel}/more": np.zeros(2)},
        "damaged model file": {"about": np.zeros(3, np.uint8)},
    }
    for message, changes in wrong.items():
        deploy.save(path, saved)
        rewritten(path, **changes)
        with pytest.raises(InputError, match=message):
            deploy.load(path)
    np.savez(path, x=np.zeros(3))
    with pytest.raises(InputError, match="no model file"):
        deploy.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("about.npy", b"x" * 100)
    with pytest.raises(InputError, match="compressed as savez_compressed does not"):
        deploy.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "mpl"},
        {"model": 3},
        {"input_shape": [0]},
        {"input_shape": "6"},
        {"input_shape": [2**20, 2**20]},
        {"input_shape": [5, 5]},
        {"num_classes": True},
        {"num_classes": 2**40},
        {"input_dtype": "object"},
        {"input_dtype": [1]},
        {"task": "song"},
        {"normalization": {"mean": 0.0, "std": 0.0}},
        {"normalization": {"middle": 0.0}},
        {"normalization": 3},
        {"options": {"hidden": "many"}},
        {"options": {"depth": 3}},
        {"options": [1]},
        {"layers": [{}]},
    ],
)
def test_descriptions_that_fit_no_network(changes, tmp_path):
    path = deploy.save(tmp_path / "model.npz", pruned(CASES["mlp"], 0.5))
    rewritten(path, about=about(path, **changes))
    with pytest.raises(InputError) as caught:
        deploy.load(path)
    assert str(caught.value).startswith(str(path))


def test_other_files_are_refused(tmp_path):
    for format in deploy.FORMATS:
        path = tmp_path / f"model.{format}"
        with pytest.raises(InputError, match="no file"):
            deploy.runnable(path)
        path.write_bytes(b"something else" * 9)
        with pytest.raises(InputError, match="model"):
            deploy.runnable(path)
    for format in ("stablehlo", "onnx"):
        with pytest.raises(InputError, match="a program and no variables"):
            deploy.load(tmp_path / f"model.{format}")


def test_inputs_are_checked_before_they_are_run(tmp_path):
    saved = pruned(CASES["mlp"], 0.5)
    model = running.of_saved(saved)
    for x, message in [
        (np.zeros((3, 5, 6)), "has shape"),
        (np.zeros((0, 6, 6)), "has shape"),
        (np.full((1, 6, 6), 0.5), "uint8 cannot hold"),
        (np.full((1, 6, 6), 256), "uint8 cannot hold"),
        (np.full((1, 6, 6), "a"), "expected numbers"),
    ]:
        with pytest.raises(InputError, match=message):
            running.check_inputs(model, x, "data.npz")
    assert running.check_inputs(model, np.full((1, 6, 6), 255.0), "x").dtype == np.uint8

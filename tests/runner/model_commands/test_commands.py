"""The commands on trained models: what they write and print, and what they refuse."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedsparsify_jax import data, deploy
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.model_commands.source import model_of_run
from fedsparsify_jax.runner.storage.model_files import load_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a few rounds."""
    path = tmp_path_factory.mktemp("runs") / "run"
    options = ["--rounds", "3", "--local-epochs", "1", "--final-sparsity", "0.95"]
    assert main(["train", *options, "--out", str(path)]) == 0
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("format", deploy.FORMATS)
def test_a_run_is_exported_and_measures_as_in_its_summary(format, compact, run, capsys):
    file = f"model.{format}"
    options = ["--format", format, "-o", file, *["--compact"][: int(compact)]]
    assert main(["export", str(run), *options]) == 0
    assert main(["evaluate", file, "--dataset", "digits", "--json"]) == 0
    shown = capsys.readouterr().out
    size = Path(file).stat().st_size
    assert shown.startswith(f"{file}: {size:,} bytes, ")
    assert ("without dead units" in shown) == compact
    result = json.loads(shown[shown.index("{") :])
    summary = json.loads((run / "summary.json").read_text())
    assert result["test_accuracy"] == pytest.approx(summary["test_accuracy"], abs=1e-6)
    assert result["examples"] == 360


@pytest.mark.parametrize("named", [[], ["--dataset", "table"]])
def test_a_run_is_evaluated_on_the_test_examples_that_it_had(named, capsys, tmp_path):
    """Of a table that the run divided by its own seed, column and share."""
    rng, table = np.random.default_rng(0), tmp_path / "visits.csv"
    rows = rng.normal(size=(300, 2))
    kinds = np.where(rng.random(300) < 0.3, "ill", "well")  # nothing to learn
    lines = [f"{a},{b},{kind}" for (a, b), kind in zip(rows, kinds, strict=True)]
    table.write_text("\n".join(["a,b,kind", *lines]) + "\n")
    options = ["--dataset", "table", "--label-column", "kind", "--test-fraction", "0.3"]
    options += ["--split-by", "example", "--seed", "3", "--num-clients", "5"]
    options += ["--data-dir", str(table), "--rounds", "8", "--model", "mlp"]
    assert main(["train", *options, "--out", "run"]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    moved = tmp_path / "moved.csv"
    table.rename(moved)
    capsys.readouterr()
    assert main(["evaluate", "run", *named]) == 2
    assert "visits.csv" in capsys.readouterr().err
    assert main(["evaluate", "run", *named, "--data-dir", str(moved), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["examples"] == 90
    for measure in ("test_accuracy", "test_loss"):
        assert result[measure] == pytest.approx(summary[measure], abs=1e-6)


def test_a_core_ml_package_is_exported_and_read_by_no_command(run, capsys):
    path = run / "export" / "model.mlpackage"
    assert main(["export", str(run), "--format", "coreml"]) == 0
    size = sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    written = capsys.readouterr()
    assert written.out.startswith(f"{path}: {size:,} bytes, ") and not written.err
    for command in ("inspect", "evaluate"):
        assert main([command, str(path)]) == 2
        assert "is a Core ML package" in capsys.readouterr().err
    assert main(["export", str(run), "--format", "coreml", "-o", "m.onnx"]) == 2
    assert "its name must end in .mlpackage" in capsys.readouterr().err
    shutil.rmtree(run / "export")


def test_files_go_to_the_run_by_default(run, capsys):
    assert main(["export", str(run)]) == 0
    assert main(["export", str(run), "--compact", "--format", "onnx", "--dense"]) == 0
    written = run / "export"
    names = {path.name for path in written.iterdir()}
    assert names == {"model.safetensors", "model-compact.onnx"}
    loaded = deploy.load(written / "model.safetensors")
    variables, about = load_model(run / "model")
    kernel = variables["params"]["Dense_1"]["kernel"]
    assert (loaded.variables["params"]["Dense_1"]["kernel"] == kernel).all()
    assert about.items() <= loaded.about.items()
    shutil.rmtree(written)


@pytest.mark.parametrize("format", ["run", *deploy.FORMATS])
def test_inspect_lists_the_layers(format, run, capsys):
    path = run
    if format != "run":
        path = Path(f"m.{format}")
        assert main(["export", str(run), "--format", format, "-o", str(path)]) == 0
    capsys.readouterr()
    assert main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert f"{path}: " in text and "inputs 8 x 8 uint8, 10 outputs" in text
    assert main(["inspect", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    if format == "stablehlo":
        assert result["layers"] == [] and "a program with its weights inside" in text
        return
    layers = {
        entry["name"].removeprefix("params/"): entry for entry in result["layers"]
    }
    summary = json.loads((run / "summary.json").read_text())
    kept = sum(entry["kept"] for name, entry in layers.items() if "Dense" in name)
    assert kept == summary["parameters_kept"]
    assert layers["Dense_0/kernel"]["shape"] == [64, 128]
    assert sum(result["magnitudes"].values()) == result["kept"]
    assert "Dense_0/kernel" in text and "#" in text


def test_inspect_says_where_compact_layers_come_from(run, capsys):
    assert main(["export", str(run), "--compact", "-o", "m.npz"]) == 0
    assert main(["inspect", "m.npz"]) == 0
    assert "_dense/kernel (Dense_1) " in capsys.readouterr().out


@pytest.mark.parametrize("format", ["run", *deploy.FORMATS])
def test_predict_writes_what_the_model_answers(format, run, capsys):
    path = run
    if format != "run":
        path = Path(f"m.{format}")
        assert main(["export", str(run), "--format", format, "-o", str(path)]) == 0
    test = data.load("digits").test
    np.savez("new.npz", x=test.x[:70])
    options = ["--data", "new.npz", "--batch-size", "32", "-o", "answers.npz"]
    assert main(["predict", str(path), *options]) == 0
    assert "predictions of 70 examples: answers.npz" in capsys.readouterr().out
    with np.load("answers.npz") as answers:
        outputs, classes = answers["outputs"], answers["classes"]
    assert outputs.shape == (70, 10) and (classes == outputs.argmax(axis=1)).all()
    assert main(["evaluate", str(path), "--dataset", "digits", "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["test_accuracy"]
    assert abs((classes == test.y[:70]).mean() - accuracy) < 0.2


def test_evaluate_knows_the_data_set_and_prints_text(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits: 360 test examples"
    assert lines[1].startswith("test accuracy") and lines[2].startswith("test loss")


def test_a_regression_has_an_error_and_no_classes(capsys):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)).astype(np.float32), rng.normal(size=60)
    np.savez("mine.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    data_of = ["--dataset", "npz", "--data-dir", "mine.npz"]
    few = ["--rounds", "1", "--num-clients", "2", "--out", "run"]
    assert main(["train", *data_of, *few]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", "run", *data_of]) == 0
    assert f"test error       {summary['test_mae']:.4f}" in capsys.readouterr().out
    np.savez("new.npz", x=x)
    assert main(["predict", "run", "--data", "new.npz"]) == 0
    with np.load("predictions.npz") as answers:
        assert list(answers) == ["outputs"] and answers["outputs"].shape == (60, 1)


def listing(directory):
    return {
        path.relative_to(directory): None if path.is_dir() else path.read_bytes()
        for path in directory.rglob("*")
    }


def refused(arguments, capsys, directory):
    """The one line of an error, after checking that it leaves no trace."""
    before = listing(directory)
    capsys.readouterr()
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("fedsparsify: error: ")
    assert shown.err.count("\n") == 1
    assert listing(directory) == before
    return shown.err


def test_runs_that_have_no_model_are_refused(run, capsys, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "summary.json").unlink()
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    arrays = damaged / "model" / "model.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:500])
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "unfinished": "the run unfinished is not finished",
        "damaged": "no readable model in damaged/model",
        "sweep": "sweep is a sweep: name the directory of one of its runs",
        "empty": "empty is no run: it has no readable config.json",
        "none": "no directory none",
    }.items():
        assert message in refused(["export", name], capsys, tmp_path)
        if name != "none":
            assert message in refused(["inspect", name], capsys, tmp_path)


def test_bad_options_are_one_line(run, capsys, tmp_path, monkeypatch):
    where = str(run)
    Path("file.onnx").write_bytes(b"no model")
    np.savez("none.npz", y=np.zeros(3))
    np.savez("shape.npz", x=np.zeros((3, 8)))
    Path("cut.npz").write_bytes(Path("none.npz").read_bytes()[:40])
    for words, message in {
        "export": "export takes one run: got none",
        f"export {where} other": "export takes one run: got 2 paths",
        f"export {where} --format onxn": "did you mean 'onnx'",
        f"export {where} -o model.npz --format onnx": "must end in .onnx",
        f"export {where} -o no/model.safetensors": "there is no directory",
        f"export {where} --dense": "--dense goes with --format onnx",
        "inspect": "inspect takes one model file or run: got none",
        "inspect none.onnx": "no file none.onnx",
        "inspect file.onnx": "file.onnx is no whole model file of this library",
        "inspect file.txt": "it must end in .safetensors",
        f"predict {where}": "predict needs --data FILE.npz",
        f"predict {where} --data missing.npz": "no file missing.npz",
        f"predict {where} --data none.npz": "none.npz has no array x",
        f"predict {where} --data cut.npz": "cut.npz is not a readable npz file",
        f"predict {where} --data shape.npz": "the model takes examples of shape (8, 8)",
        f"predict {where} --data shape.npz -o a.csv": "its name must end in .npz",
        "evaluate": "evaluate takes one model file or run: got none",
        f"evaluate {where} --dataset digit": "did you mean 'digits'",
        f"evaluate {where} --dataset npz --data-dir none.npz": "none.npz lacks",
    }.items():
        assert message in refused(words.split(), capsys, tmp_path), words
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    assert "no permission" in refused(["export", where], capsys, run)
    monkeypatch.undo()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedsparsify_jax.deploy.files.encode", interrupted)
    before = listing(run)
    assert main(["export", where]) == 130
    assert listing(run) == before


def test_data_that_a_model_is_not_for(run, capsys, tmp_path):
    x, y = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 12
    np.savez("classes.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    command = ["evaluate", str(run), "--dataset", "npz", "--data-dir", "classes.npz"]
    assert "the model has 10 outputs" in refused(command, capsys, tmp_path)
    np.savez("shapes.npz", x_train=x[:, 1:], y_train=y, x_test=x[:, 1:], y_test=y)
    command[-1] = "shapes.npz"
    assert "has shape (20, 7, 8)" in refused(command, capsys, tmp_path)
    for dataset, message in {
        None: "this file names none",
        "mine": "the model was trained on 'mine', which is no name of a data set",
    }.items():
        saved = deploy.load(deploy.save("m.npz", model_of_run(run)))
        saved.about["dataset"] = dataset
        deploy.save("m.npz", saved)
        error = refused(["evaluate", "m.npz"], capsys, tmp_path)
        assert f"evaluate needs --dataset: {message}" in error

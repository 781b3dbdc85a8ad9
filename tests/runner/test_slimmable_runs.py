"""Slimmable training from the command line: a model for every level."""

import json

import numpy as np
import pytest

from fedsparsify_jax import trees
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.storage.model_files import load_model

OPTIONS = ["train", "--rounds", "3", "--num-clients", "4", "--local-epochs", "1"]
OPTIONS += ["--compilation-cache", "off", "--algorithm", "slimmable"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("slim") / "run"
    assert main([*OPTIONS, "--levels", "0.5,0.8", "--out", str(out)]) == 0
    return out


def test_every_level_is_evaluated_and_saved(run, capsys):
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["levels"]) == ["0.5", "0.8"]
    densest = summary["levels"]["0.5"]
    assert densest["test_accuracy"] == pytest.approx(summary["test_accuracy"])
    assert densest["parameters_kept"] == summary["parameters_kept"]
    assert summary["levels"]["0.8"]["sparsity"] == pytest.approx(0.8, abs=1e-4)
    for name, row in summary["levels"].items():
        model, about = load_model(run / "levels" / name)
        kept = sum(int((leaf != 0).sum()) for _, leaf in trees.named_leaves(model))
        assert kept == row["parameters_kept"]
        assert about["sparsity"] == row["sparsity"]
    # An exported level is what the summary says.
    assert main(["export", str(run), "--level", "0.8"]) == 0
    file = run / "export" / "model-0.8.safetensors"
    capsys.readouterr()
    assert main(["evaluate", str(file), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    expected = summary["levels"]["0.8"]["test_accuracy"]
    assert result["test_accuracy"] == pytest.approx(expected, abs=1e-6)


def test_without_labels_each_level_gets_a_classifier(tmp_path, capsys):
    """It is the last layer of what is saved, which is never pruned."""
    out = tmp_path / "run"
    contrastive = ["--loss", "contrastive", "--levels", "0.5,0.8", "--slow-start", "1"]
    rest = ["--batch-size", "64", "--train-subset", "500", "--out", str(out)]
    assert main([*OPTIONS, *contrastive, *rest]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert "before_post_training" not in summary
    # 24,832 weights may be pruned, and the 1,290 of the last layer stay.
    assert summary["parameters"] == 24832 and summary["parameters_kept"] == 12416
    for name, row in summary["levels"].items():
        assert row["sparsity"] == pytest.approx(float(name), abs=1e-4)
        assert row["test_accuracy"] > 0.7  # of 10 classes
        model, _ = load_model(out / "levels" / name)
        assert (model["params"]["Dense_2"]["kernel"] != 0).mean() > 0.9
    capsys.readouterr()
    assert main(["evaluate", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    expected = summary["levels"]["0.5"]["test_accuracy"]
    assert result["test_accuracy"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--spare", "first"], "--spare is 'first': with --loss contrastive the last"),
        (["--augmentation", "off"], "leave --augmentation on"),
    ],
)
def test_what_cannot_learn_from_views_is_one_line(options, message, capsys, tmp_path):
    out = tmp_path / "run"
    options = [*OPTIONS, "--loss", "contrastive", *options, "--out", str(out)]
    assert main(options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not out.exists()


def test_views_need_classes_and_images(capsys, tmp_path):
    x, y = np.zeros((8, 4, 4), np.float32), np.arange(8)
    for name, inputs, targets, message in (
        ("numbers", x, y / 2, "the targets of 'numbers' are numbers"),
        ("rows", x[:, 0], y % 2, "examples of 'rows' have shape (4,)"),
    ):
        arrays = {"x_train": inputs, "y_train": targets}
        file = tmp_path / f"{name}.npz"
        np.savez(file, x_test=inputs, y_test=targets, **arrays)
        options = ["--dataset", "npz", "--data-dir", str(file)]
        out = str(tmp_path / "run")
        assert main([*OPTIONS, "--loss", "contrastive", *options, "--out", out]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error


def test_an_unknown_level_is_one_line(run, capsys):
    assert main(["export", str(run), "--level", "0.7"]) == 2
    error = capsys.readouterr().err
    assert "no level 0.7: it has 0.5, 0.8" in error and error.count("\n") == 1


@pytest.mark.parametrize("levels", ["0.8,0.5", "0.5,1", "0.5,,0.8", "much", "0.5,0.5"])
def test_levels_that_cannot_be_are_one_line(levels, capsys, tmp_path):
    out = str(tmp_path / "run")
    assert main([*OPTIONS, "--levels", levels, "--out", out]) == 2
    error = capsys.readouterr().err
    assert f"--levels is {levels!r}: expected rising" in error, error
    assert error.count("\n") == 1


def test_a_sweep_takes_lists_of_levels(tmp_path, capsys):
    out = tmp_path / "sweep"
    options = ["sweep", *OPTIONS[1:], "--levels", "0.5,0.8", "0.9", "--out", str(out)]
    assert main(options) == 0
    trials = [json.loads(row) for row in (out / "sweep.jsonl").read_text().splitlines()]
    names = [list(trial["levels"]) for trial in trials]
    assert names == [["0.5", "0.8"], ["0.9"]]

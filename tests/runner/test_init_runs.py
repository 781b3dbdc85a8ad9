"""Runs that start from a trained model, train adapters, or compute in bfloat16."""

import json
import shutil

import jax
import numpy as np
import pytest

from fedsparsify_jax import deploy, models, trees
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.storage.model_files import load_model

TRAIN = "train --num-clients 2 --rounds 1 --local-epochs 1 --train-subset 40"


def run(*options):
    return main([*TRAIN.split(), "--compilation-cache", "off", *map(str, options)])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model file that a run and its export would leave, made by hand."""
    network = {"model": "mlp", "input_shape": (8, 8), "num_classes": 10}
    model = models.build("mlp", input_shape=(8, 8), num_classes=10)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    return deploy.save(path, deploy.saved_model(variables, network))


def test_adapters_of_a_file_in_bfloat16(base, tmp_path, capsys):
    """What is saved is the base with its adapters; a changed file is noticed."""
    own = shutil.copy(base, tmp_path / "own.safetensors")
    out = tmp_path / "run"
    options = ["--init", own, "--lora-rank", 2, "--precision", "bf16"]
    # A threshold for both factors would take B, which starts at zero, away whole.
    options += ["--scope", "layer", "--final-sparsity", 0.5]
    options += ["--learning-rate", 0.01, "--out", out]
    assert run(*options) == 0
    (record,) = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert {path.split("/")[-1] for path in record["kept"]} == {"lora_a", "lora_b"}
    # Two clients' adapters, down and up.
    numbers = 2 * (64 + 128 + 128 + 128 + 128 + 10)
    assert record["bytes_dense"] == 2 * 2 * 4 * numbers
    before, (after, about) = deploy.load(base).variables, load_model(out / "model")
    assert trees.first_difference(before, after) is None and about["model"] == "mlp"
    for layer in ("Dense_0", "Dense_2"):
        old, new = (tree["params"][layer] for tree in (before, after))
        np.testing.assert_array_equal(old["bias"], new["bias"])
        change = new["kernel"] - old["kernel"]
        assert 0 < np.abs(change).max() < 1
        assert np.linalg.matrix_rank(change, tol=1e-4) <= 2
    other = jax.tree.map(lambda leaf: leaf + 1, before)
    deploy.save(own, deploy.saved_model(other, about))
    capsys.readouterr()
    assert run(*options, "--rounds", 2, "--resume", "--allow-changes") == 2
    assert "the initial model of the run" in capsys.readouterr().err


def test_a_run_starts_where_another_ended(base, tmp_path):
    """At a rate of nearly nothing a finished run's model comes out again."""
    slow = ["--algorithm", "fedavg", "--learning-rate", 1e-30]
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("--init", base, *slow, "--out", first) == 0
    assert run("--init", first, *slow, "--out", second) == 0
    expected, (found, _) = deploy.load(base).variables, load_model(second / "model")
    for (_, a), (_, b) in zip(*map(trees.named_leaves, (expected, found)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--model cnn --init BASE",
            "BASE is of another model: batch_stats/BatchNorm_0/",
        ),
        ("--init none.npz", "no file none.npz"),
        ("--init .", "--init . holds no model: it must be a file or finished run"),
        ("--lora-rank 2", "--lora-rank needs --init: the model"),
        ("--lora-alpha 2", "--lora-alpha needs --lora-rank: adapters"),
        ("--init BASE --lora-rank 0", "--lora-rank is 0: it must be at least 1"),
        ("--init BASE --lora-rank 2 --loss contrastive", "not go with --loss contra"),
        ("--precision bf16 --sparse-training auto", "goes with --precision float32"),
        ("--precision half", "unknown precision 'half'"),
    ],
)
def test_what_cannot_start_is_one_line(
    options, message, base, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = options.replace("BASE", str(base)).split()
    assert run(*words, "--out", "run") == 2
    error = capsys.readouterr().err
    assert message.replace("BASE", str(base)) in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())

"""Criteria, patterns and spared layers from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedsparsify_jax import data, deploy, trees
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.storage.model_files import load_model

RUN = ["train", "--rounds", "2", "--num-clients", "4", "--local-epochs", "1"]
RUN += ["--compilation-cache", "off"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*options):
    assert main([*RUN, *options, "--out", "run"]) == 0
    variables, _ = load_model("run/model")
    return dict(trees.named_leaves(variables["params"]))


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_pruned_channels_are_left_out_of_a_compact_export(model):
    scope = ["--scope", "layer", "--final-sparsity", "0.75"]
    leaves = run("--model", model, "--pattern", "channel", *scope)
    *hidden, last = sorted(name for name in leaves if name.endswith("kernel"))
    widths = {}
    for name in hidden:
        units = leaves[name].reshape(-1, leaves[name].shape[-1])
        alive = (units != 0).any(axis=0)
        assert alive.sum() == len(alive) // 4
        assert not leaves[name.replace("kernel", "bias")][~alive].any()
        widths[name.partition("/")[0]] = int(alive.sum())
        norm = {"Conv_1": "BatchNorm_0", "Conv_3": "BatchNorm_1"}.get(name[:6])
        for leaf in ("scale", "bias") if norm else ():
            assert not leaves[f"{norm}/{leaf}"][~alive].any()
    assert (leaves[last] != 0).all()
    assert main(["export", "run", "--compact", "-o", "small.npz"]) == 0
    assert main(["export", "run", "-o", "large.npz"]) == 0
    small, large = deploy.load("small.npz"), deploy.load("large.npz")
    kinds = ("dense", "conv")
    layers = [layer for layer in small.about["layers"] if layer["kind"] in kinds]
    shapes = [layer["shape"][-1] for layer in layers]
    assert shapes == [*widths.values(), 10]
    assert trees.size(small.variables) < trees.size(large.variables) / 3
    x = data.load("digits").test.x[:50]
    answers = [np.asarray(m.model.apply(m.variables, x)[0]) for m in (small, large)]
    np.testing.assert_allclose(*answers, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["fedsparsify-global", "one-shot", "ste"])
def test_two_of_four_are_kept_and_the_final_sparsity_follows(algorithm):
    leaves = run("--algorithm", algorithm, "--pattern", "2:4")
    for name, leaf in leaves.items():
        if name.endswith("kernel"):
            groups = (leaf != 0).reshape(-1, 4, leaf.shape[-1])
            assert (groups.sum(axis=1) == 2).all(), name
    options = json.loads(Path("run/config.json").read_text())["options"]
    assert options["final_sparsity"] == 0.5


def test_spared_layers_stay_dense_and_are_not_counted():
    leaves = run("--spare", "first,Dense_2", "--final-sparsity", "0.9")
    for layer in ("Dense_0", "Dense_2"):
        assert (leaves[f"{layer}/kernel"] != 0).all()
    kept = sum(int((leaves[f"Dense_1/{k}"] != 0).sum()) for k in ("kernel", "bias"))
    summary = json.loads(Path("run/summary.json").read_text())
    total = 128 * 128 + 128
    assert kept == summary["parameters_kept"] == total - int(0.9 * total)
    assert summary["sparsity"] == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize("criterion", ["movement", "taylor"])
def test_a_criterion_reaches_the_run(criterion):
    leaves = run("--criterion", criterion, "--measure-bytes")
    kept = sum(int((leaf != 0).sum()) for leaf in leaves.values())
    total = sum(leaf.size for leaf in leaves.values())
    assert kept <= total - int(0.9 * total)
    last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    # Round 2 purges: its uploads are dense yet, with a score for every weight.
    besides = 2 if criterion == "taylor" else 1
    assert last["bytes_up"] == pytest.approx(4 * 4 * total * besides, rel=0.01)
    assert last["message_bytes_up"] >= last["bytes_up"] * 0.9


@pytest.mark.parametrize(
    "options, line",
    [
        (["--pattern", "4:2"], "--pattern is '4:2': it must be unstructured, channel"),
        (["--pattern", "3:7"], "does not divide the inputs of layer Dense_0, which"),
        (["--pattern", "2:4", "--model", "cnn"], "layer Conv_0, which has 1: spare"),
        (
            ["--pattern", "2:4", "--final-sparsity", "0.8"],
            "--final-sparsity is 0.8: --pattern 2:4 prunes 0.5",
        ),
        (["--pattern", "2:4", "--scope", "layer"], "--scope is layer: with the"),
        (["--pattern", "channel", "--scope", "erk"], "--scope is erk: channels are"),
        (["--algorithm", "ste", "--pattern", "channel"], "--pattern is channel: it"),
        (["--criterion", "size"], "--criterion"),
        (["--spare", "Dense_7"], "--spare: unknown layer 'Dense_7': did you mean"),
        (["--spare", ","], "--spare: unknown layer ''"),
    ],
)
def test_what_cannot_be_is_one_line(options, line, capsys):
    assert main([*RUN, "--out", "run", *options]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1, error

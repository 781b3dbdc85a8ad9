"""``--powerprop`` from the command line: a run, what it hands out, what it refuses."""

import json

import numpy as np
import pytest

from fedsparsify_jax import trees
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.storage.model_files import load_model

RUN = ["train", "--rounds", "2", "--num-clients", "4", "--local-epochs", "1"]
RUN += ["--compilation-cache", "off", "--final-sparsity", "0.8"]


def play(out, *options):
    """The records of a run, and its model."""
    assert main([*RUN, "--out", str(out), *options]) == 0
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], flat(out)


def flat(out):
    """The saved arrays by path."""
    return dict(trees.named_leaves(load_model(out / "model")[0]))


def same(one, other):
    """Whether two runs have the same numbers, times left out."""
    return [
        {k: v for k, v in record.items() if "seconds" not in k} for record in one
    ] == [{k: v for k, v in record.items() if "seconds" not in k} for record in other]


def test_exponent_one_is_the_run_without_and_others_hand_out_weights(tmp_path, capsys):
    plain, model = play(tmp_path / "plain")
    one, same_model = play(tmp_path / "one", "--powerprop", "1")
    assert same(plain, one)
    other, powers = play(
        tmp_path / "two", "--powerprop", "2", "--powerprop-average", "weights"
    )
    assert not same(plain, other)
    for name, leaf in model.items():
        np.testing.assert_array_equal(leaf, same_model[name])
    zeros = sum(int((leaf == 0).sum()) for leaf in powers.values())
    assert zeros / sum(leaf.size for leaf in powers.values()) > 0.79
    # What is saved is evaluated as any model is.
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "two")]) == 0
    accuracy = 100 * other[-1]["test_accuracy"]
    assert f"{accuracy:.2f}%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--powerprop", "0.5"], "--powerprop"),
        (
            ["--algorithm", "feddst", "--powerprop", "2"],
            "feddst: --powerprop does not go with weights that are grown at zero",
        ),
        (
            ["--algorithm", "prunefl", "--powerprop", "2"],
            "prunefl: --powerprop does not go with weights that are grown at zero",
        ),
        (
            ["--powerprop", "2", "--wire-values", "float16"],
            "--powerprop does not go with --wire-values float16",
        ),
    ],
)
def test_what_cannot_be_is_one_line(options, line, capsys, tmp_path):
    assert main([*RUN, "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1, error
    assert not (tmp_path / "run").exists()

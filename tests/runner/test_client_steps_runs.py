"""``--gradient-point`` and ``--optimizer lars`` from the command line."""

import numpy as np
import pytest

from fedsparsify_jax import trees
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.storage.model_files import load_model

RUN = ["train", "--rounds", "2", "--num-clients", "4", "--local-epochs", "1"]
RUN += ["--compilation-cache", "off", "--final-sparsity", "0.8"]


def play(out, *options):
    """The model of a run in one array."""
    assert main([*RUN, "--out", str(out), *options]) == 0
    leaves = [
        leaf.ravel() for _, leaf in trees.named_leaves(load_model(out / "model")[0])
    ]
    return np.concatenate(leaves)


def test_points_and_lars_train_sparse_models_of_their_own(tmp_path, capsys):
    plain = play(tmp_path / "plain")
    zero = play(tmp_path / "zero", "--gradient-point", "past", "--gradient-radius", "0")
    np.testing.assert_array_equal(zero, plain)
    sam = play(tmp_path / "sam", "--gradient-point", "sam")
    rated = play(
        tmp_path / "lars",
        *["--optimizer", "lars", "--learning-rate", "5", "--momentum", "0.9"],
        *["--weight-decay", "5e-4", "--trust-coefficient", "0.01"],
    )
    for model in (sam, rated):
        assert (model == 0).mean() > 0.79
        assert not np.allclose(model, plain, rtol=1e-3)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--algorithm", "prunefl", "--gradient-point", "past"],
            "prunefl: --gradient-point past does not go with a method that takes",
        ),
        (["--gradient-point", "up"], "--gradient-point: unknown gradient point 'up'"),
        (
            ["--gradient-radius", "0.1"],
            "--gradient-radius goes with a --gradient-point: past, fresh, noise or sam",
        ),
        (["--gradient-radius", "-1"], "--gradient-radius is -1.0: it must be at least"),
        (["--weight-decay", "0.1"], "--weight-decay goes with the optimizer lars"),
        (["--optimizer", "adam"], "--optimizer: unknown optimizer 'adam'"),
    ],
)
def test_what_cannot_be_is_one_line(options, line, capsys, tmp_path):
    assert main([*RUN, "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1, error
    assert not (tmp_path / "run").exists()

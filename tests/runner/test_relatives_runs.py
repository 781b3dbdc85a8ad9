"""HALO and STE from the command line: what is saved, what is sent, what is refused."""

import json

import pytest

from fedsparsify_jax import trees
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.storage.model_files import load_model

RUN = ["train", "--rounds", "2", "--num-clients", "4", "--local-epochs", "1"]
RUN += ["--compilation-cache", "off", "--final-sparsity", "0.8", "--measure-bytes"]


@pytest.mark.parametrize(
    "options, dense",
    [
        (["--algorithm", "ste", "--pruned-decay", "2e-4"], True),
        (["--algorithm", "halo", "--penalties", "averaged"], False),
        (["--algorithm", "halo", "--powerprop", "1.5", "--xi", "1e-5"], False),
    ],
)
def test_a_run_hands_out_exact_zeros_and_nothing_but_the_model(
    options, dense, tmp_path, capsys
):
    out = tmp_path / "run"
    assert main([*RUN, *options, "--out", str(out)]) == 0
    model, _ = load_model(out / "model")
    assert set(model) == {"params"}
    leaves = [leaf for _, leaf in trees.named_leaves(model)]
    total = sum(leaf.size for leaf in leaves)
    kept = sum(int((leaf != 0).sum()) for leaf in leaves)
    assert kept / total == pytest.approx(0.2, abs=1e-3)
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    # Uploads of round 2 are under the masks of round 1, which keep everything.
    lambdas = "averaged" in options
    assert last["bytes_up"] >= 4 * 4 * total * (1.9 if lambdas else 0.99)
    assert (last["bytes_down"] > 0.9 * 4 * 4 * total) == dense
    assert last["message_bytes_up"] >= last["bytes_up"]
    assert main(["evaluate", str(out)]) == 0
    assert f"{100 * last['test_accuracy']:.2f}%" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, line",
    [
        (["--algorithm", "halo", "--psi", "0"], "--psi is 0"),
        (["--algorithm", "halo", "--penalties", "mine"], "--penalties"),
        (["--algorithm", "ste", "--pruned-decay", "-1"], "--pruned-decay is -1"),
    ],
)
def test_what_cannot_be_is_one_line(options, line, capsys, tmp_path):
    assert main([*RUN, "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1, error

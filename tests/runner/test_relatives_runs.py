"""HALO, STE and ProgFed from the command line: what is saved, sent and refused."""

import json
import shutil

import pytest

from fedsparsify_jax import trees
from fedsparsify_jax.cli import main
from fedsparsify_jax.report.reading import read_run
from fedsparsify_jax.runner.storage.model_files import load_model

RUN = ["train", "--rounds", "2", "--num-clients", "4", "--local-epochs", "1"]
RUN += ["--compilation-cache", "off", "--final-sparsity", "0.8", "--measure-bytes"]


@pytest.mark.parametrize(
    "options, dense",
    [
        (["--algorithm", "ste", "--pruned-decay", "2e-4"], True),
        (["--algorithm", "halo", "--penalties", "averaged"], False),
        (["--algorithm", "halo", "--powerprop", "1.5", "--xi", "1e-5"], False),
        (["--algorithm", "progfed", "--stages", "2"], False),
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
        (
            ["--algorithm", "progfed", "--stages", "3"],
            "--stages is 3: it must be at least 1, and at most 2 for this model",
        ),
        (
            ["--algorithm", "progfed", "--warmup-rounds", "1"],
            "--rounds is 2: 2 stages with --warmup-rounds of 1 take at least 3",
        ),
    ],
)
def test_what_cannot_be_is_one_line(options, line, capsys, tmp_path):
    assert main([*RUN, "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1, error


def test_a_run_goes_on_into_the_next_stage(tmp_path, capsys):
    """The same rounds and the same bytes, and the report knows all layers."""
    options = [*RUN, "--algorithm", "progfed", "--rounds", "4", "--warmup-rounds", "1"]
    options += ["--checkpoint-every", "1", "--keep-last", "4"]
    records = []
    for name in ("whole", "again"):
        assert main([*options, "--out", str(tmp_path / name)]) == 0
    # As a kill after round 1, the only one of the first stage, would leave it.
    for later in ("2", "3", "4"):
        shutil.rmtree(tmp_path / "again" / "checkpoints" / later)
    (tmp_path / "again" / "summary.json").unlink()
    assert main([*options, "--resume", "--out", str(tmp_path / "again")]) == 0
    assert "resuming after round 1" in capsys.readouterr().out
    for name in ("whole", "again"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        records.append([json.loads(line) | {"seconds": 0} for line in lines])
    assert records[0] == records[1]
    kept = [record["kept"]["params/head_1/kernel"] for record in records[0]]
    assert kept == [1280, 0, 0, 0]
    # Two FLOPs a weight, three passes, but none to the inputs of the first layer.
    steps = [
        4 * counts["params/Dense_0/kernel"]
        + 6 * counts["params/head_1/kernel"]
        + 6 * counts["params/Dense_1/kernel"]
        + 6 * counts["params/Dense_2/kernel"]
        for counts in (record["kept"] for record in records[0])
    ]
    assert steps[0] == 4 * 64 * 128 + 6 * 1280
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["training_flops_mean"] == pytest.approx(sum(steps) / 4, abs=1)
    assert summary["training_flops"] == pytest.approx(steps[-1], abs=3)
    sizes = read_run(tmp_path / "whole").sizes
    assert sizes["params/Dense_1/kernel"] == 128 * 128


def test_clients_of_half_the_width_count_as_such(tmp_path):
    """Three clients, of which the second has half of the units between layers."""
    out = tmp_path / "run"
    options = ["train", "--rounds", "1", "--num-clients", "3", "--widths", "1,0.5"]
    options += ["--local-epochs", "1", "--compilation-cache", "off"]
    assert main([*options, "--algorithm", "fedrolex", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    whole = 4 * 64 * 128 + 6 * (128 * 128 + 128 * 10)
    half = 4 * 64 * 64 + 6 * (64 * 64 + 64 * 10)
    assert summary["training_flops_by_width"] == {"1": whole, "0.5": half}
    assert summary["training_flops"] == whole
    assert summary["training_flops_mean"] == round((2 * whole + half) / 3)


def test_a_model_without_blocks_of_its_own_cannot_grow(tmp_path, capsys):
    options = ["--algorithm", "progfed", "--model", "lstm"]
    assert main([*RUN, *options, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error


def test_clients_train_full_shapes_of_a_network_that_grows(tmp_path, capsys):
    options = ["--algorithm", "progfed", "--sparse-training", "auto"]
    assert main([*RUN, *options, "--out", str(tmp_path / "run")]) == 0
    assert "clients train in full: the network grows" in capsys.readouterr().out

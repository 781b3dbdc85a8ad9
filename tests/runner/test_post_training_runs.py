"""UniPTS from the command line: what is saved and summarized is the pruned model."""

import json

import pytest

from experiments.lib.collecting import line
from fedsparsify_jax import trees
from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.storage.model_files import load_model

OPTIONS = ["--rounds", "2", "--num-clients", "4", "--local-epochs", "1"]
OPTIONS += ["--compilation-cache", "off", "--algorithm", "unipts"]
SHORT = ["--calibration-examples", "100", "--generations", "1", "--post-epochs", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("post") / "run"
    options = [*OPTIONS, *SHORT, "--final-sparsity", "0.8", "--server-ema", "0.5"]
    assert main(["train", *options, "--out", str(out)]) == 0
    return out


def read(path):
    return json.loads(path.read_text())


def test_the_summary_is_of_the_pruned_model(run, capsys):
    rows = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(row) for row in rows]
    summary = read(run / "summary.json")
    model, about = load_model(run / "model")
    total = sum(leaf.size for _, leaf in trees.named_leaves(model))
    kept = sum(int((leaf != 0).sum()) for _, leaf in trees.named_leaves(model))
    assert kept == total - int(0.8 * total) == summary["parameters_kept"]
    assert summary["sparsity"] == pytest.approx(0.8, abs=1e-4)
    assert summary["target_sparsity"] == 0.8
    assert [record["sparsity"] for record in records] == [0.0, 0.0]
    last = records[-1]["test_accuracy"]
    assert summary["before_post_training"]["test_accuracy"] == last
    accuracy = summary["test_accuracy"]
    assert accuracy != last
    assert about["test_accuracy"] == summary["best_test_accuracy"] == accuracy
    assert main(["evaluate", str(run), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    # Bytes are those of dense rounds, but for biases that start at zero.
    assert summary["bytes_up"] == pytest.approx(summary["bytes_dense"] / 2, rel=0.01)


@pytest.mark.parametrize(
    "options", [SHORT, ["--algorithm", "slimmable", "--levels", "0.5,0.8"]]
)
def test_a_spared_layer_does_not_count_in_the_sparsity(options, tmp_path):
    out = tmp_path / "run"
    words = [*OPTIONS, *options, "--final-sparsity", "0.8", "--spare", "first"]
    assert main(["train", *words, "--out", str(out)]) == 0
    summary = read(out / "summary.json")
    results = summary.get("levels", {"0.8": summary})
    for level, result in results.items():
        assert result["sparsity"] == pytest.approx(float(level), abs=1e-3)


def test_tables_show_the_pruned_model_beside_others(run):
    summary, row = read(run / "summary.json"), line(run)
    assert row["final"] == row["last_5"] == summary["test_accuracy"]
    assert row["kept"] == summary["parameters_kept"]


def test_a_sweep_hands_out_the_same(run, tmp_path):
    options = [*OPTIONS, *SHORT, "--final-sparsity", "0.8,0.9", "--server-ema", "0.5"]
    assert main(["sweep", *options, "--out", str(tmp_path / "sweep")]) == 0
    summary = read(run / "summary.json")
    trials = {
        number: read(tmp_path / "sweep" / f"final_sparsity={number}" / "summary.json")
        for number in (0.8, 0.9)
    }
    for field in ("parameters_kept", "target_sparsity"):
        assert trials[0.8][field] == summary[field]
    assert trials[0.8]["test_accuracy"] == pytest.approx(
        summary["test_accuracy"], abs=0.02
    )
    assert trials[0.9]["parameters_kept"] < trials[0.8]["parameters_kept"]


@pytest.mark.parametrize(
    "options, text",
    [
        (["--client-data", "disk"], "needs the data of all clients"),
        (["--calibration-examples", "0"], "--calibration-examples is 0"),
        (["--dataset", "brain_age", "--train-subset", "40"], "brain_age"),
    ],
)
def test_what_cannot_be_is_one_line(options, text, capsys, tmp_path):
    out = str(tmp_path / "run")
    assert main(["train", *OPTIONS, "--out", out, *options]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1, error

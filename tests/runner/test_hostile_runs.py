"""Faults, attacks and defences through the command line: files, disk and sweeps."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from fedsparsify_jax.cli import main

COMMON = ["--dataset", "npz", "--data-dir", "toy.npz", "--num-clients", "8"]
COMMON += ["--model", "mlp", "--local-epochs", "1", "--learning-rate", "0.1"]
COMMON += ["--rounds", "3", "--evaluate-every", "3", "--compilation-cache", "off"]
FAULTS = ["--faults", "dropout=1@2,straggle=0.4:0.5,nan=0.3@3"]
HOSTILE = ["--attack", "sign-flip", "--merge", "trimmed-mean", "--clip-norm", "5"]
COUNTS = ("merged", "dropped", "stragglers", "rejected")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every command runs in a directory with a small data set."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    x[np.arange(60), y] += 2
    np.savez("toy.npz", x_train=x[:48], y_train=y[:48], x_test=x[48:], y_test=y[48:])
    with jax.debug_nans(False):  # the loss of a round without clients
        yield


def metrics(run):
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) | {"seconds": None} for line in lines]


def test_a_run_says_who_failed_and_files_make_the_same_one(capsys):
    for where in ("memory", "disk"):
        words = ["train", *COMMON, *FAULTS, "--client-data", where, "--out", where]
        assert main(words) == 0
    assert metrics("memory") == metrics("disk")
    first, second, third = metrics("disk")
    assert [second[name] for name in COUNTS] == [0, 8, 0, 0]
    assert second["train_loss"] is None and second["bytes_up"] == 0
    assert second["kept"] == first["kept"] and second["bytes_down"] > 0
    assert third["rejected"] > 0 and third["merged"] == 8 - third["rejected"]
    summary = json.loads(Path("disk", "summary.json").read_text())
    for name in COUNTS[1:]:
        assert summary[name] == sum(record[name] for record in metrics("disk"))
    assert summary["rounds_without_clients"] == 1
    assert "NOBODY LEFT (dropped 8)" in capsys.readouterr().out


def test_a_sweep_of_attackers_is_one_program_of_the_same_runs(capsys):
    shares = ["--attackers", "0,0.25", *HOSTILE, *FAULTS]
    assert main(["sweep", *COMMON, *shares, "--out", "grid"]) == 0
    assert "2 to train as 1 program" in capsys.readouterr().out
    chosen = ["--attackers", "0.25", *HOSTILE, *FAULTS]
    assert main(["train", *COMMON, *chosen, "--out", "one"]) == 0
    for found, wanted in zip(
        metrics("grid/attackers=0.25"), metrics("one"), strict=True
    ):
        assert found.pop("kept") == wanted.pop("kept")
        assert found == pytest.approx(wanted, abs=1e-4)
    honest = metrics("grid/attackers=0.0")
    assert [record["dropped"] for record in honest] == [0, 8, 0]
    assert honest[0]["test_loss"] is None
    assert honest[2]["test_loss"] != metrics("one")[2]["test_loss"]

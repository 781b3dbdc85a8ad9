"""Membership inference in models of brain age, where less error is better."""

import dataclasses
import json

import nibabel
import numpy as np
import pandas as pd
import pytest

from experiments.lib.registry import TABLES
from experiments.lib.results import Results, of_attack, path_of
from experiments.run import main
from experiments.tables.membership import dense_at, report, verdict
from experiments.tables.membership_brain_age import TABLE

AUC = of_attack("loss")
YEARS = {2: 9.0, 5: 7.0, 10: 6.0, 20: 5.0, 40: 4.0, 80: 4.5}
"""Errors of dense models by rounds; their AUC is 1 minus a tenth of that."""


@pytest.fixture
def results(made_up):
    """Lines where Global and its like err by 6.5 years, and betray .3 of their data."""
    root = made_up(TABLE, "paper")
    path = path_of(TABLE.name, "paper", root)
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    for row in rows:
        dense = row["options"]["algorithm"] == "fedavg"
        row["final"] = YEARS[row["options"]["rounds"]] if dense else 6.5
        auc = 1 - row["final"] / 10 if dense else 0.3
        auc += 0.001 * row["seed"] * (1 if dense else -1)
        estimate = {"estimate": auc}
        rates = {"0.001": None, "0.01": estimate}
        attack = {"auc": estimate, "tpr": rates}
        row["audit"] = dict.fromkeys(("loss", "gradient", "layer"), attack)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Results(TABLE, "paper", root)


def test_dense_models_are_stopped_where_they_err_as_little(results):
    wanted = pd.Series({0: 6.5, 1: 9.5, 2: 4.0})
    measured = dense_at(results, wanted, AUC)
    # Between 5 and 10 rounds, before the first run, and at 40: 80 are worse again.
    assert np.allclose(measured.loc[[0, 2]], [0.35, 0.602])
    assert np.isnan(measured[1])
    assert np.isnan(dense_at(results, pd.Series({0: 3.9}), AUC)[0])


def test_both_comparisons_are_of_years(results):
    rounds, error = verdict(results, AUC).splitlines()
    assert "after as many rounds: lower in 16 of 16 places" in rounds
    assert "of the same error: lower in 16 of 16 places" in error


def test_shares_are_percents_and_errors_are_years(results):
    made = report(results)
    heading, text = made.blocks["accuracy"]
    assert heading == "Test mean absolute error of the attacked models in years"
    (row,) = (line for line in text.splitlines() if line.startswith("| dense, 10"))
    assert "| 6.00 ± 0.00 |" in row
    (row,) = (
        line
        for line in made.blocks["auc-loss"][1].splitlines()
        if line.startswith("| dense, 10")
    )
    assert "| 40.1 ± 0.1 |" in row
    assert "auc-lira-online" not in made.blocks  # there are no shadow runs
    heading, text = made.blocks["equal-accuracy"]
    assert heading.startswith("AUC minus that of the dense model of equal error, loss")
    assert text.count("-5.2 ± 0.5") == 16
    assert "after 40 rounds" in made.blocks["equal-rounds"][0]
    assert "test mean absolute error" in made.figures["auc-accuracy"]


def write_scans(folder, train, test):
    """Writes tiny volumes that are brighter the older their head is."""
    rng = np.random.default_rng(0)
    for name, number in (("train", train), ("test", test)):
        rows = ["path,age"]
        for scan in range(number):
            age = rng.uniform(45, 80)
            voxels = rng.normal(age, 5, (4, 5, 4)).astype(np.float32)
            path = folder / f"{name}-{scan}.nii"
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
            rows.append(f"{path.name},{age:.2f}")
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")


def test_the_short_preset_runs_on_volumes(tmp_path, monkeypatch):
    """All of it but the network, which would compile for minutes: a small one."""
    small = dataclasses.replace(TABLE, options={**TABLE.options, "model": "mlp"})
    monkeypatch.setitem(TABLES, TABLE.name, (small, report))
    write_scans(tmp_path, train=64, test=8)
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    words = [TABLE.name, "--preset", "short", "--data-dir", str(tmp_path), *places]
    assert main(words) == 0
    stem = f"{TABLE.name}-short"
    text = (tmp_path / "results" / f"{stem}.jsonl").read_text()
    lines = [json.loads(row) for row in text.splitlines()]
    assert [line["options"]["rounds"] for line in lines] == [2, 5, 5]
    for line in lines:
        assert set(line["audit"]) == {"loss", "gradient", "layer"}
        assert 0 <= AUC(line) <= 1 and 0 < line["final"] < 80
    assert lines[-1]["sparsity"] == pytest.approx(0.95, abs=1e-3)
    page = (tmp_path / "results" / f"{stem}.md").read_text()
    assert "All cells are there." in page
    assert "Test mean absolute error of the attacked models in years" in page

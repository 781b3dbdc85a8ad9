"""Tables whose runs are audited, and the comparison of models that are as accurate."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from experiments.lib import auditing, collecting, running
from experiments.lib.results import Results, of_attack, path_of
from experiments.lib.table import Preset, Row
from experiments.tables.membership import TABLE, dense_at, report, verdict

AUC = of_attack("lira-online")
TINY = dataclasses.replace(
    TABLE,
    rows=(Row("dense", "dense", {"algorithm": "fedavg"}),),
    options={
        "dataset": "digits",
        "train_subset": 40,
        "num_clients": 2,
        "rounds": 2,
        "local_epochs": 1,
    },
    axes={"partition": ("iid",), "final_sparsity": (0.9,), "seed": (0,)},
    presets={"paper": Preset("")},
    audit={"shadow_runs": 0, "examples": 40},
)


@pytest.fixture
def results(made_up):
    """Dense runs at .5 to .8, whose AUC is their accuracy; Global at .7 betrays .6."""
    root = made_up(TABLE, "paper")
    path = path_of(TABLE.name, "paper", root)
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    dense = {5: 0.5, 10: 0.55, 15: 0.6, 20: 0.65, 30: 0.66, 40: 0.8, 80: 0.75}
    for row in rows:
        options = row["options"]
        jitter = 0.001 * row["seed"]
        if options["algorithm"] == "fedavg":
            row["final"] = dense[options["rounds"]]
            auc = row["final"] + jitter
        else:
            row["final"] = 0.73 if options["final_sparsity"] < 0.99 else 0.9
            auc = 0.6 - jitter
        row["audit"] = {"lira-online": {"auc": {"estimate": auc}}}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Results(TABLE, "paper", root)


def test_dense_models_are_stopped_where_they_are_as_accurate(results):
    wanted = pd.Series({0: 0.73, 1: 0.6, 2: 0.9})
    measured = dense_at(results, wanted, AUC)
    # Between 30 and 40 rounds, at 15 exactly, and nowhere: 80 rounds are no later gain.
    assert np.allclose(measured.loc[[0, 1]], [0.73, 0.601])
    assert np.isnan(measured[2])


def test_both_comparisons_are_counted(results):
    rounds, accuracy = verdict(results, AUC).splitlines()
    assert "lower in 16 of 16 places, higher in 0" in rounds
    # At 99 % all are more accurate than any dense model.
    assert "lower in 12 of 16 places" in accuracy and "comparable in 4." in accuracy


def test_equal_accuracy_is_in_the_table(results, monkeypatch):
    # The made-up lines have no other attack.
    monkeypatch.setattr(
        "experiments.tables.membership._ATTACKS", {"lira-online": "LiRA"}
    )
    monkeypatch.setattr(
        "experiments.tables.membership.of_attack", lambda *_: AUC, raising=True
    )
    blocks = report(results).blocks
    row = next(
        line
        for line in blocks["equal-accuracy"][1].splitlines()
        if line.startswith("| Global")
    )
    assert row.count("-13.2") == 3 and row.endswith("| - |")


def test_runs_are_audited_once_and_collected_with_it(tmp_path, monkeypatch):
    quiet = Console(quiet=True)
    running.run(TINY, "paper", quiet, tmp_path / "runs")
    home = running.directory(TINY, "paper", tmp_path / "runs")
    path = tmp_path / "lines.jsonl"
    assert collecting.collect(TINY, "paper", [home], path) == 1
    (line,) = map(json.loads, path.read_text().splitlines())
    assert set(line["audit"]) == {"loss", "gradient", "layer"}
    assert 0 <= of_attack("loss")(line) <= 1
    assert np.isnan(of_attack("loss", "tpr", "0.001")(line))  # of 20 others

    # Again: nothing is left to do. Other options are another audit, which lacks.
    monkeypatch.setattr(auditing, "audit", lambda _: pytest.fail("audited again"))
    running.run(TINY, "paper", quiet, tmp_path / "runs")
    other = dataclasses.replace(TINY, audit={"shadow_runs": 4})
    assert collecting.collect(other, "paper", [home], tmp_path / "none.jsonl") == 0

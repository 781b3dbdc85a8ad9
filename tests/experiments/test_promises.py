"""The table of promises: its figures are those of the committed benchmarks."""

import json

import pytest

from experiments.studies import promises
from experiments.studies.promises import BENCHMARKS, report


@pytest.fixture(scope="module")
def rows():
    text = report().blocks["all"][1]
    cells = [row.strip("| ").split(" | ") for row in text.splitlines()[2:]]
    return {row[-4]: row[-3:] for row in cells}


def test_every_promise_has_figures(rows):
    assert len(rows) == 20
    for row in rows.values():
        assert any(cell != "-" for cell in row)


def test_bytes_and_times_are_those_of_the_benchmarks(rows):
    sizes = json.loads((BENCHMARKS / "results-wire.json").read_text())["sizes"]
    smaller = sizes["0.95"]["dense"] / sizes["0.95"]["float32"]
    assert rows["file or message of 1.6 M weights"][1] == f"{smaller:.1f} x"
    cases = json.loads((BENCHMARKS / "results-inference.json").read_text())["cases"]
    best = {
        case["sparsity"]: max(case["times faster"].values())
        for case in cases
        if case["model"] == "cnn" and case["batch"] == 128 and case["threads"] == 1
    }
    inference = rows["cnn, batch of 128, best engine"]
    assert inference[:2] == [f"{best[0.9]:.2f} x", f"{best[0.95]:.2f} x"]
    runs = json.loads((BENCHMARKS / "results-sparse_runs.json").read_text())
    seconds = runs["10 clients, 0.99"]["medians"]
    faster = seconds["off"] / seconds["auto"]
    assert rows["whole runs of 10 clients, mlp"][::2] == ["-", f"{faster:.2f} x"]


def test_what_was_not_measured_is_empty(rows):
    for measured in ("encoded messages, masks and all", "encoded messages with zstd"):
        assert rows[measured][0] == rows[measured][2] == "-"


def test_without_lines_accuracies_are_empty(tmp_path):
    text = promises.report("paper", tmp_path).blocks["all"][1]
    (row,) = (line for line in text.splitlines() if "plain SGD, IID" in line)
    assert row.endswith("| - | - | - |")

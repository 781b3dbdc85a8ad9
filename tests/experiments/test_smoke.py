"""``python -m experiments.run fashion_mnist --preset smoke``, in process."""

import json
import subprocess
from pathlib import Path

import pytest

from experiments.lib import provenance, running
from experiments.lib.collecting import EVERY
from experiments.run import main

SMOKE = ["fashion_mnist", "--preset", "smoke"]
CELLS = 8  # two methods, two partitions, two seeds
ROUNDS = 3


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Everything that the command wrote."""
    home = tmp_path_factory.mktemp("smoke")
    assert main([*SMOKE, *places(home)]) == 0
    return home


def places(home: Path, results: str = "results") -> list[str]:
    return ["--runs", str(home / "runs"), "--results", str(home / results)]


def lines(home: Path, results: str = "results"):
    text = (home / results / "fashion_mnist-smoke.jsonl").read_text()
    return [json.loads(row) for row in text.splitlines()]


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_every_cell_has_a_line_with_its_provenance(home):
    found = lines(home)
    assert len(found) == CELLS
    for row in found:
        options = row["options"]
        sparse = options["algorithm"] != "fedavg"
        assert row["seed"] == options["seed"]
        assert row["commit"] == provenance.commit()
        assert row["machine"]["devices"] == "2 x cpu"
        assert row["versions"]["jax"] and row["seconds"] > 0
        assert row["parameters"] == 118_282
        assert row["kept"] == (11_829 if sparse else 118_282)
        assert 0.05 < row["final"] <= row["best"] < 1
        curves = row["curves"]
        assert len(curves["accuracy"]) == ROUNDS and curves["every"] == EVERY
        assert curves["accuracy"][-1] == pytest.approx(row["final"], abs=5e-5)
        assert curves["bytes"] == [row["bytes"]]
        # 10 clients, both ways, a bit for every parameter in whole bytes.
        assert row["bytes_with_masks"] - row["bytes"] == ROUNDS * 2 * 10 * 14_786
        assert (row["bytes"] < 0.9 * row["bytes_dense"]) == sparse


def test_it_writes_a_page_and_figures(home):
    results = home / "results"
    page = (results / "fashion_mnist-smoke.md").read_text()
    assert "8 runs" in page and "All cells are there." in page
    row = next(line for line in page.splitlines() if line.startswith("| FedSparsify"))
    assert row.count("±") == 1
    assert len(list(results.glob("*.svg"))) == 3  # no cell keeps its layers


def test_a_killed_table_goes_on_to_the_same_one(home):
    whole = lines(home)
    runs = home / "runs" / "fashion_mnist-smoke"
    lost = list(runs.glob("fedsparsify-global/partition=iid*/summary.json"))
    assert len(lost) == 2  # what had been under way
    for summary in lost:
        summary.unlink()
    kept = {path: path.stat().st_mtime_ns for path in runs.rglob("summary.json")}

    assert main([*SMOKE, "--collect", *places(home, "killed")]) == 0
    partial = lines(home, "killed")
    assert len(partial) == CELLS - 2
    page = (home / "killed" / "fashion_mnist-smoke.md").read_text()
    assert "2 cells have not been run: `python -m experiments.run" in page

    assert main([*SMOKE, *places(home, "killed")]) == 0
    assert without_times(lines(home, "killed")) == without_times(whole)
    assert all(path.stat().st_mtime_ns == kept[path] for path in kept)


def test_lines_outlive_their_runs(home, tmp_path):
    source = home / "results" / "fashion_mnist-smoke.jsonl"
    (tmp_path / "results").mkdir()
    copy = tmp_path / "results" / source.name
    copy.write_text(source.read_text())
    assert main([*SMOKE, "--collect", *places(tmp_path)]) == 0
    assert copy.read_text() == source.read_text()


def test_only_what_is_missing_is_trained(home, tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    kept = [
        row
        for row in lines(home)
        if (row["options"]["algorithm"], row["options"]["partition"], row["seed"])
        != ("fedsparsify-global", "label-shards", 1)
    ]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    (tmp_path / "results" / "fashion_mnist-smoke.jsonl").write_text(text)
    trained = []
    monkeypatch.setattr(running, "sweep", lambda config, _: trained.append(config))
    assert main([*SMOKE, "--missing", *places(tmp_path)]) == 0
    (config,) = trained  # none for fedavg, of which there is everything
    assert config.algorithm == ("fedsparsify-global",)
    assert (config.partition, config.seed) == (("label-shards",), ("1",))
    assert main([*SMOKE, *places(tmp_path)]) == 0
    assert len(trained) == 3  # all of it, without the option


def test_missing_cells_cannot_be_trained_by_collecting(tmp_path, capsys):
    assert main([*SMOKE, "--missing", "--collect", *places(tmp_path)]) == 2
    assert "choose one of them" in capsys.readouterr().err


def test_a_run_belongs_to_the_start_before_it(tmp_path):
    run = tmp_path / "row" / "run"
    run.mkdir(parents=True)
    (run / "summary.json").write_text("{}")
    finished = (run / "summary.json").stat().st_mtime
    assert provenance.of_run(run)["commit"] is None
    for shift, commit in ((-100, "early"), (-10, "right"), (100, "late")):
        provenance.record(tmp_path, finished + shift, of=commit)
    assert provenance.of_run(run)["commit"] == "right"


def test_the_commit_is_gits():
    said = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=provenance.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.startswith(provenance.commit())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fashion"], "unknown table 'fashion': did you mean 'fashion_mnist'"),
        (["fashion_mnist", "--preset", "long"], "unknown preset 'long'"),
        (["votes", "--collect", "nowhere"], "--collect nowhere: there is no such"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_it_says_what_there_is(capsys):
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "--preset smoke: 8 runs" in said
    assert "final_sparsity (traced)" in said and "partition (static)" in said

"""``--cohort-sampling representative`` and ``--server-lookahead`` from the shell."""

import json

import pytest

from fedsparsify_jax.cli import main

OPTIONS = ["train", "--rounds", "3", "--num-clients", "20", "--participation", "0.25"]
OPTIONS += ["--partition", "label-shards", "--local-epochs", "1"]
OPTIONS += ["--compilation-cache", "off", "--algorithm", "fedsparsify-plus"]
CHOSEN = ["--cohort-sampling", "representative"]


def test_a_run_and_its_sweep_have_the_same_numbers(tmp_path, capsys):
    """Seeds share a program, and every one draws by its own clients' labels."""
    grid = [*OPTIONS[1:], *CHOSEN]
    many = tmp_path / "many"
    assert main(["sweep", *grid, "--seed", "0", "1", "--out", str(many)]) == 0
    accuracies = []
    for seed in ("0", "1"):
        out = tmp_path / seed
        assert main([*OPTIONS, *CHOSEN, "--seed", seed, "--out", str(out)]) == 0
        alone = json.loads((out / "summary.json").read_text())
        swept = json.loads((many / f"seed={seed}" / "summary.json").read_text())
        assert alone["test_accuracy"] == pytest.approx(swept["test_accuracy"], abs=0.01)
        accuracies.append(alone["test_loss"])
    assert accuracies[0] != accuracies[1]
    plain = tmp_path / "plain"
    assert main([*OPTIONS, "--out", str(plain)]) == 0
    other = json.loads((plain / "summary.json").read_text())
    assert other["test_loss"] != accuracies[0]
    assert "Traceback" not in capsys.readouterr().err


REFUSED = {
    "no labels at hand": (
        [*CHOSEN, "--client-data", "disk"],
        "--cohort-sampling representative looks at the labels of all clients: use",
    ),
    "labels that must be hidden": (
        [*CHOSEN, "--dp-clip", "1", "--dp-noise", "1"],
        "--cohort-sampling representative does not go with --dp-clip: it looks at",
    ),
    "too far": (
        ["--server-lookahead", "1"],
        "--server-lookahead is 1.0: it must be at least 0 and below 1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_with_it(case, tmp_path, capsys):
    options, message = REFUSED[case]
    assert main([*OPTIONS, *options, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert not (tmp_path / "run").exists()


def test_numbers_have_no_classes(tmp_path, capsys):
    table = tmp_path / "numbers.csv"
    rows = [f"{i / 40},{i % 7 / 7},{i / 20}" for i in range(40)]
    table.write_text("\n".join(["a,b,y", *rows]) + "\n")
    options = ["train", "--dataset", "table", "--data-dir", str(table), *CHOSEN]
    options += [
        "--label-column",
        "y",
        "--split-by",
        "example",
        "--num-clients",
        "4",
        "--participation",
        "0.5",
    ]
    assert main([*options, "--rounds", "2", "--out", str(tmp_path / "run")]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "looks at classes: the targets of this data set are numbers" in error

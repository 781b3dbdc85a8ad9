"""Clients that the data name: a user's table through the real command line."""

import itertools
import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from images import pictures, write_images

from fedsparsify_jax.cli import main
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.model_commands.source import model_of_run
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.sweep_grid import program_groups, trials
from fedsparsify_jax.runner.programs.federation import Federation, assemble
from fedsparsify_jax.runner.programs.natural import origin
from fedsparsify_jax.runner.programs.sweep_program import partitions

COLUMNS = "--label-column diagnosis --client-column hospital"
SMALL = "--rounds 1 --local-epochs 1 --batch-size 4 --algorithm fedavg --devices 1"


def patients(path: Path, **changed: list) -> Path:
    """Twelve patients of three hospitals, one of which has a single one."""
    rng = np.random.default_rng(0)
    columns = {
        "age": rng.integers(20, 90, 12).tolist(),
        "pulse": rng.normal(70, 9, 12).tolist(),
        "note": ["free text"] * 12,
        "hospital": ["leeds"] * 6 + ["bath"] * 5 + ["york"],
        "diagnosis": ["flu", "cold", "flu"] * 4,
    }
    table = datasets.Dataset.from_dict(columns | changed)
    getattr(table, f"to_{path.suffix[1:]}")(path)
    return path


def trained(path: Path, options: str) -> Path:
    run = path.parent / "run"
    table = f"--dataset table --data-dir {path} --out {run}"
    assert main(["train", *table.split(), *SMALL.split(), *options.split()]) == 0
    return run


def partition(run: Path) -> dict:
    return json.loads((run / "partition.json").read_text())


def divided(path: Path, **options) -> tuple[dict, Federation]:
    """What a run would record of its data, without training."""
    given = {"dataset": "table", "split_by": "example", "client_column": "hospital"}
    given |= {"label_column": "diagnosis", "data_dir": path} | options
    config = resolve(TrainConfig(**given))
    federation = assemble(config)
    sizes = {"sizes": [len(part) for part in federation.parts]}
    return origin(config, federation.dataset) | sizes, federation


def test_one_command_trains_on_a_table_of_words(tmp_path, capsys):
    path = patients(tmp_path / "patients.parquet")
    options = f"{COLUMNS} --split-by example --client-evaluation on"
    run = trained(path, options)
    said = capsys.readouterr().out
    assert "fedavg on table: 3 clients of 1 to 5 examples, natural partition" in said
    assert "inputs: age, pulse, standardised by the training examples; not us" in said
    assert "labels: diagnosis, 2 classes: 'cold', 'flu'" in said
    assert "test set: 2 of 12 examples, 20 % of each client's (seed 0)" in said
    found = partition(run)
    assert found["names"] == ["bath", "leeds", "york"]
    assert found["sizes"] == [4, 5, 1] and found["labels"] == ["cold", "flu"]
    about = json.loads((run / "model/model.json").read_text())
    assert about["labels"] == ["cold", "flu"]
    # It goes on with the same clients.
    trained(path, f"{options} --resume")
    assert "resuming after round 1" in capsys.readouterr().out
    # The words come back with predictions.
    np.savez(tmp_path / "new.npz", x=np.array([[50, 70]], np.float32))
    out = tmp_path / "answers.npz"
    words = ["predict", run, "--data", tmp_path / "new.npz", "--out", out]
    assert main(list(map(str, words))) == 0
    with np.load(out) as answers:
        (label,) = answers["labels"].tolist()
    assert label in ("cold", "flu") and f"\n{label} 1\n" in capsys.readouterr().out


def test_csv_is_read_as_parquet_is(tmp_path):
    both = [divided(patients(tmp_path / name))[0] for name in ("p.csv", "p.parquet")]
    assert both[0] == both[1]


def test_small_clients_go_and_others_are_drawn_and_that_is_said(tmp_path, capsys):
    path = patients(tmp_path / "p.parquet")
    limits = "--split-by example --min-client-examples 2 --max-clients 1"
    run = trained(path, f"{COLUMNS} {limits}")
    said = capsys.readouterr().out
    assert "1 client with fewer than 2 examples left out: york" in said
    found = partition(run)
    (kept,) = found["names"]
    (drawn_out,) = found["left_out"]["beyond the 1 drawn"]
    assert {kept, drawn_out} == {"bath", "leeds"}
    assert f"1 client beyond the 1 drawn left out: {drawn_out}" in said


def test_clients_of_the_test_set_are_not_trained_on(tmp_path):
    found, federation = divided(patients(tmp_path / "p.parquet"), split_by="client")
    assert len(found["names"]) == 2
    assert len(found["left_out"]["without training examples"]) == 1
    assert "those of 1 of 3 clients" in found["notes"][1]
    owners = federation.dataset.owners
    assert not set(owners.train.tolist()) & set(owners.test.tolist())


def test_two_columns_name_a_client(tmp_path):
    path = patients(tmp_path / "p.parquet", age=[30, 40] * 6)
    found, _ = divided(path, client_column="hospital,age")
    assert found["names"][:2] == ["bath/30", "bath/40"] and len(found["names"]) == 5


def test_numbers_with_gaps_are_classes(tmp_path):
    path = patients(tmp_path / "p.parquet", diagnosis=[7, -1, 7, 40] * 3)
    found, federation = divided(path)
    assert found["labels"] == [-1, 7, 40] and federation.dataset.num_classes == 3


def test_clients_are_the_same_in_both_splits(tmp_path):
    patients(tmp_path / "train.parquet")
    patients(tmp_path / "test.parquet", hospital=["hull"] * 6 + ["bath"] * 6)
    options = {"split_by": None, "client_evaluation": "on"}
    found, federation = divided(tmp_path, dataset="hf:some/patients", **options)
    assert found["names"] == ["bath", "leeds", "york"]
    assert found["left_out"] == {"without training examples": ["hull"]}
    assert federation.tests.sizes.tolist() == [6, 0, 0]
    assert sorted(federation.tests.rows[0].tolist()) == [6, 7, 8, 9, 10, 11]


def test_a_sweep_divides_as_train_does(tmp_path):
    path = patients(tmp_path / "p.parquet")
    axes = {"dataset": ["table"], "data_dir": [path], "client_column": ["hospital"]}
    axes |= {"label_column": ["diagnosis"], "split_by": ["example"], "seed": [0, 1]}
    groups = program_groups(trials(axes))
    assert [len(group) for group in groups] == [1, 1]  # each seed has its test set
    _, federation = divided(path, seed=1)
    (parts,) = partitions(groups[1], federation.dataset).values()
    for one, other in zip(parts, federation.parts, strict=True):
        np.testing.assert_array_equal(one, other)


def test_arrays_of_an_npz_name_clients(tmp_path):
    x, y = np.arange(24.0).reshape(12, 2), np.array(["b", "a"] * 6)
    clients = {"site_train": np.repeat([5, 3], 6), "site_test": np.repeat([3, 5], 6)}
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y, **clients)
    none = {"split_by": None, "label_column": None}
    found, _ = divided(path, dataset="npz", client_column="site", **none)
    assert (found["names"], found["labels"]) == (["3", "5"], ["a", "b"])
    with pytest.raises(InputError, match="has no array ward_train: it has x_train, y"):
        divided(path, dataset="npz", client_column="ward", **none)


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({}, "--client-column clinic", "has no column 'clinic': it has age, pulse, n"),
        ({}, "--label-column d", "has no column 'd': it has"),
        ({"hospital": [None] + ["a"] * 11}, "", "row 0: no hospital"),
        ({"hospital": [0.5] * 12}, "", "row 0: hospital is 0.5, expected a name or a"),
        ({"diagnosis": ["flu"] * 11 + [None]}, "", "row 11: no diagnosis"),
        ({"pulse": [None] + [1.0] * 11}, "", "row 0: no number as pulse"),
        ({}, "--min-client-examples 7", "--min-client-examples is 7: the largest clie"),
        ({}, "--num-clients 3", "--num-clients is 3: the data say who the clients are"),
        ({}, "--test-fraction 0.01", "--test-fraction is 0.01: that leaves none of 12"),
        ({}, "--participation 0.01", "--participation"),
        ({}, "--input-columns note,age", "--input-columns are one of images, one of"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, capsys, changed, options, message):
    path = patients(tmp_path / "p.parquet", **changed)
    run = tmp_path / "run"
    words = f"train --dataset table --data-dir {path} --out {run} {SMALL} {COLUMNS}"
    assert main([*words.split(), "--split-by", "example", *options.split()]) == 2
    error = capsys.readouterr().err
    line = error[error.rindex("fedsparsify: error: ") :]
    assert line.count("\n") == 1 and message in line
    assert not run.exists()


def test_one_split_without_a_word_about_it(tmp_path, capsys):
    path = patients(tmp_path / "p.parquet")
    words = f"train --dataset table --data-dir {path} {SMALL} {COLUMNS}"
    assert main(words.split()) == 2
    assert "(give --split-by example or client" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--partition natural", "--partition natural needs --client-column NAME"),
        (
            "--dataset npz --client-column a --partition dirichlet",
            "--client-column does not go with --partition dirichlet",
        ),
        ("--client-column a", "--client-column does not go with --dataset digits"),
        ("--max-clients 3", "--max-clients goes with --partition natural"),
    ],
)
def test_options_without_a_table(capsys, options, message):
    assert main(["train", *options.split()]) == 2
    assert message in capsys.readouterr().err


def shakespeare(path: Path) -> None:
    lines = ["to be or", "not to b", "that is ", "the ques"] * 4
    columns = {"x": lines, "y": list("eetn" * 4), "character_id": ["HAMLET", "YORICK"]}
    columns["character_id"] *= 8
    datasets.Dataset.from_dict(columns).to_parquet(path)


def femnist(path: Path) -> None:
    table = write_images(None, pictures(6, (28, 28)), "image", character=[0, 1, 2] * 2)
    table.add_column("writer_id", ["f1", "f2"] * 3).to_parquet(path)


def commands_of_the_page() -> list[list[str]]:
    page = Path(__file__).parents[2] / "docs" / "command_line.md"
    section = page.read_text().split("### Tables and natural")[1].split("\n### ")[0]
    blocks = "".join(re.findall(r"```sh\n(.*?)```", section, re.S))
    return [line.split() for line in blocks.replace("\\\n", " ").splitlines()]


def test_commands_of_the_page(tmp_path, capsys, monkeypatch):
    """The three commands, on small files in the place of the real ones."""
    monkeypatch.chdir(tmp_path)
    patients(tmp_path / "patients.parquet")
    for write in (femnist, shakespeare):
        (tmp_path / write.__name__).mkdir()
        write(tmp_path / write.__name__ / "train.parquet")
    table, writers, parts = commands_of_the_page()
    smaller = ["--participation", "1", "--rounds", "1", "--local-epochs", "1"]
    assert main([*table[1:], "--rounds", "1"]) == 0
    for words, name in ((writers, "femnist"), (parts, "shakespeare")):
        options = dict(zip(words[2::2], words[3::2], strict=True))
        options |= dict(zip(smaller[::2], smaller[1::2], strict=True))
        options |= {"--data-dir": name, "--out": f"run-{name}"}
        # Four examples a client, and a network that compiles at once.
        options |= {"--min-client-examples": "1", "--batch-size": "4"}
        options["--model"] = {"cnn": "mlp"}.get(*[options["--model"]] * 2)
        assert main(["train", *itertools.chain(*options.items())]) == 0
    found = partition(tmp_path / "run-femnist")
    assert found["names"] == ["f1", "f2"]
    found = partition(tmp_path / "run-shakespeare")
    assert (found["names"], found["labels"]) == (["HAMLET", "YORICK"], ["e", "n", "t"])
    saved = model_of_run(tmp_path / "run-shakespeare")
    assert saved.about["characters"] == " abehinoqrstu"
    assert saved.variables["params"]["embedding"].shape == (15, 128)

"""``--next-token`` through the real command line."""

import json
import re
from pathlib import Path

import datasets
import pytest

from fedsparsify_jax.cli import main

PLAYS = ["to be or not to be", "the rest is silence", "words words words", "to die to"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every command runs in a directory with a table of posts."""
    monkeypatch.chdir(tmp_path)
    columns = {"text": PLAYS * 3, "author": ["a", "b", "c", "d"] * 3}
    datasets.Dataset.from_dict(columns).to_parquet("posts.parquet")


def test_the_command_of_the_page():
    page = Path(__file__).parents[2] / "docs" / "command_line.md"
    section = page.read_text().split("### Next letters and words")[1].split("\n### ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, re.S)
    words = block.replace("\\\n", " ").split()[1:]
    small = "--rounds 1 --local-steps 1 --batch-size 4 --devices 1 --out run"
    words[words.index("--participation") + 1] = "1"
    assert main([*words, *small.split()]) == 0
    saved = json.loads(Path("run/model/model.json").read_text())
    assert saved["labels"] == ["", *saved["words"]]
    assert saved["options"] == {"vocabulary": 2 + len(saved["words"])}
    clients = json.loads(Path("run/partition.json").read_text())
    assert len(clients["names"]) == 3  # one of four is for testing


def test_the_lstm_is_the_default():
    options = "--dataset table --data-dir posts.parquet --input-columns text"
    small = "--rounds 1 --local-steps 1 --batch-size 4 --devices 1 --num-clients 2"
    command = f"{options} --split-by example --next-token character {small} --out run"
    assert main(["train", *command.split()]) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["options"]["model"] == "lstm"
    assert json.loads(Path("run/model/model.json").read_text())["characters"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--window 3", "--window needs --next-token"),
        ("--vocabulary 3", "--vocabulary needs --next-token"),
        ("--next-token word", "--next-token does not go with --dataset digits"),
        ("--dataset table --next-token word --label-column y", "does not go with"),
        ("--dataset table --next-token word --model mlp", "use lstm or transformer"),
        ("--dataset table --next-token line", "unknown next token 'line'"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    assert main(["train", *options.split()]) == 2
    assert message in capsys.readouterr().err

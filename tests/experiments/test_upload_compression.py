"""The bytes of the table of compressed uploads are those of encoded messages."""

import json

import pytest

from experiments.lib.collecting import line
from experiments.tables.upload_compression import TABLE, sent, sent_up
from fedsparsify_jax.cli import main

ROUNDS, COHORT, HEADER = 4, 4, 1300  # at most so many bytes


@pytest.mark.parametrize(
    "key", [row.key for row in TABLE.rows if row.key != "global-none"]
)
def test_the_formula_is_what_is_sent(key, tmp_path):
    """Up to headers, and positions of masks, a bit a number that was kept at most."""
    options = TABLE.row(key).options | {
        "dataset": "digits",
        "num_clients": 2 * COHORT,
        "participation": 0.5,
        "final_sparsity": 0.95,
        "rounds": ROUNDS,
        "local_epochs": 1,
        "compilation_cache": "off",
        "out": tmp_path / "run",
    }
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    assert main(["train", "--measure-bytes", *words]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    cell = line(tmp_path / "run")
    headers = ROUNDS * COHORT * HEADER
    # Of the positions that top-k sends the formula counts the most that they take.
    assert 0.98 * sent_up(cell) < summary["message_bytes_up"] < sent_up(cell) + headers
    # The formula has the last model, and messages have the first.
    numbers, width = 26_122, 2 if "float16" in key else 4
    ends = COHORT * width * (numbers - cell["kept"])
    down = sent(cell) - sent_up(cell) + ends
    masks = 0 if key.startswith("fedavg") else ROUNDS * COHORT * numbers / 8
    assert 0.98 * down < summary["message_bytes_down"] < down + headers + masks
    text = summary["bytes_formula"]
    compression = options.get("upload_compression", "none")
    assert ("uploads" in text) == (compression != "none")

"""The round of docs/encryption.md runs, and its tables say what the library does."""

import re
from pathlib import Path

import pytest

from fedsparsify_jax.deploy import encrypted

PAGE = Path(__file__).parents[3] / "docs" / "encryption.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_round_of_the_page_runs():
    pytest.importorskip("tenseal.sealapi", reason="tenseal is missing")
    (block,) = re.findall(r'```python title="round.py"\n(.*?)```', TEXT, re.S)
    names: dict = {}
    exec(compile(block, str(PAGE), "exec"), names)
    assert names["total"].clients == 3


def test_the_lengths_of_the_tables_are_those_of_a_message():
    """Of a message with one ciphertext, all rows that have a length."""
    rows = re.findall(r"^\| (\d[\d,]*)(?: each)? \|", TEXT, re.M)
    assert sum(int(row.replace(",", "")) for row in rows) == encrypted.size(1)


def test_the_factor_of_the_page_is_that_of_lengths():
    """118,282 weights against the 5 % of them that survive, rounded up."""
    factor = encrypted.size(118_282) / encrypted.size(5_915)
    assert f"is {factor:.0f} times shorter" in TEXT.replace("\n", " ")
    assert factor >= 18 and encrypted.size(118_282) / encrypted.size(11_829) >= 9

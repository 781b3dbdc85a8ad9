"""Text to integer sequences, from parquet, jsonl and csv."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsparsify_jax import data
from fedsparsify_jax.data.sources import imdb
from fedsparsify_jax.errors import InputError

TRAIN = [("A good, GOOD film!", 1), ("bad film", 0), ("Don't.", 0), ("the good", 1)]
TEST = [("good unseen film", 1), ("", 0)]
# good 3, film 2; then one each by the alphabet: a, bad, don't, the
WORDS = {"good": 2, "film": 3, "a": 4, "bad": 5, "don't": 6, "the": 7}


def write(directory: Path, suffix: str, **splits: list[tuple]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        path = directory / f"{split}{suffix}"
        columns = {"text": [r[0] for r in rows], "label": [r[1] for r in rows]}
        table = datasets.Dataset.from_dict(columns)
        if suffix == ".parquet":
            table.to_parquet(path)
        elif suffix == ".csv":
            table.to_csv(path)
        else:
            lines = (json.dumps({"text": t, "label": y}) for t, y in rows)
            path.write_text("\n".join(lines) + "\n")
    return directory


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_all_formats(tmp_path: Path, suffix: str) -> None:
    test = TEST if suffix != ".csv" else [TEST[0], ("!", 0)]  # csv has no empty text
    write(tmp_path, suffix, train=TRAIN, test=test)
    dataset = data.load("imdb", tmp_path, length=5)
    assert dataset.train.x.tolist() == [
        [0, 4, 2, 2, 3],
        [0, 0, 0, 5, 3],
        [0, 0, 0, 0, 6],
        [0, 0, 0, 7, 2],
    ]
    assert dataset.test.x.tolist() == [[0, 0, 2, 1, 3], [0] * 5]
    assert dataset.train.x.dtype == dataset.train.y.dtype == np.int32
    assert (dataset.train.y.tolist(), dataset.test.y.tolist()) == ([1, 0, 0, 1], [1, 0])
    assert (dataset.num_classes, dataset.task) == (2, "classification")


def test_defaults_are_the_authors(tmp_path: Path) -> None:
    long = " ".join(f"w{i:05d}" for i in range(30_000))
    write(tmp_path, ".parquet", train=[(long, 0), ("w00000", 1)], test=[(long, 1)])
    dataset = data.load("imdb", tmp_path)
    assert dataset.train.x.shape == (2, 200)
    assert dataset.train.x[1].tolist() == [0] * 199 + [2]
    assert np.all(dataset.train.x[0] == 1)  # the last words are beyond the vocabulary
    words = imdb.vocabulary([long])
    assert (len(words), max(words.values())) == (24_998, 24_999)


def test_the_vocabulary_is_the_training_set_s(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl", train=TRAIN, test=[("unseen " * 9 + "bad", 0)])
    dataset = data.load("imdb", tmp_path, length=3)
    assert dataset.test.x.tolist() == [[1, 1, 5]]
    assert imdb.vocabulary([t for t, _ in TRAIN]) == WORDS


def test_a_small_vocabulary(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl", train=TRAIN, test=TEST)
    dataset = data.load("imdb", tmp_path, length=4, vocabulary_size=4)
    assert dataset.train.x[0].tolist() == [1, 2, 2, 3]
    assert dataset.train.x.max() == 3


def test_a_balanced_subset(tmp_path: Path) -> None:
    write(tmp_path, ".jsonl", train=TRAIN, test=TEST)
    dataset = data.load("imdb", tmp_path, train_subset=2, seed=1)
    assert sorted(dataset.train.y.tolist()) == [0, 1]


def test_tokenize() -> None:
    assert imdb.tokenize("<br />It's 7'30\" — Ünïcode_x 'quoted'") == [
        *("br", "it's", "7'30", "ünïcode", "x", "quoted")
    ]
    assert imdb.tokenize("... !") == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("ab ", max_size=12), min_size=1, max_size=5), st.integers(1, 6))
def test_encode_keeps_the_end(texts: list[str], length: int) -> None:
    words = imdb.vocabulary(texts)
    names = {number: word for word, number in words.items()}
    rows = imdb.encode(texts, words, length)
    assert rows.shape == (len(texts), length)
    for row, source in zip(rows.tolist(), texts, strict=True):
        kept = [names[number] for number in row if number]
        tokens = imdb.tokenize(source)
        assert kept == tokens[-length:]
        assert row[: length - len(kept)] == [0] * (length - len(kept))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("fine", 0), (None, 1)], "train split of .*, row 1: text is None, expected"),
        ([("fine", 0), ("fine", None)], r"train split .*, row 1: no label \(None\)"),
        ([("fine", 0), ("fine", -1)], r"train split .*, row 1: no label \(-1\)"),
        ([("fine", -2)], "row 0: label is -2, expected a class number from 0"),
        ([("fine", 2**40)], "row 0: label is 1099511627776, expected a class number"),
        ([("fine", "pos")], "row 0: label is 'pos', expected a class number from 0"),
        ([("fine", 0.5)], "row 0: label is 0.5, expected a class number"),
        ([(3, 1)], "row 0: text is 3, expected text"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list, message: str) -> None:
    write(tmp_path, ".jsonl", train=rows, test=TEST)
    with pytest.raises(InputError, match=message):
        data.load("imdb", tmp_path)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no directory"):
        data.load("imdb", tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"holds no files called train.*\.jsonl, \.csv"
    ):
        data.load("imdb", tmp_path)
    write(tmp_path, ".jsonl", train=TRAIN)
    with pytest.raises(InputError, match="no test or validation split: it has train"):
        data.load("imdb", tmp_path)
    write(tmp_path, ".jsonl", test=TEST)
    write(tmp_path, ".csv", test=TEST)
    with pytest.raises(InputError, match=r"several candidates for test \(test.csv, "):
        data.load("imdb", tmp_path)
    (tmp_path / "test.csv").unlink()
    (tmp_path / "train.jsonl").write_text('{"text": "cut of')
    with pytest.raises(InputError, match=r"cannot read .*train.jsonl: .+") as caught:
        data.load("imdb", tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "train.jsonl").write_text('{"review": "fine", "label": 1}\n')
    with pytest.raises(InputError, match="has no column 'text': it has review, label"):
        data.load("imdb", tmp_path)


def test_options_out_of_range() -> None:
    with pytest.raises(InputError, match="vocabulary size is 2: it must be at least 3"):
        imdb.vocabulary(["a"], 2)
    with pytest.raises(InputError, match="sequence length is 0: it must be at least 1"):
        imdb.encode(["a"], {}, 0)


def test_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stand_in(*args):
        asked.append(args)
        columns = {"text": ["so good"], "label": [1]}
        table = datasets.Dataset.from_dict(columns)
        return {"train": table, "test": table, "unsupervised": table}

    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    dataset = data.load("imdb", length=2)
    assert asked == [("stanfordnlp/imdb", None)]
    assert dataset.train.x.tolist() == [[3, 2]]

    def fail(*args):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"imdb is not to be had .*\(offline\): put"):
        data.load("imdb")

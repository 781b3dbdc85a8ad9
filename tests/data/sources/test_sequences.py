"""Every next token of texts: windows, vocabularies, and data sets of them."""

import datasets
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.data.sources.sequences import tokens_of, vocabulary_of, windows
from fedsparsify_jax.errors import InputError

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=7), max_size=5)


@hypothesis.given(texts=TEXTS, size=st.integers(1, 5), length=st.integers(1, 8))
def test_windows_are_what_a_reader_would_see(texts, size, length):
    vocabulary = vocabulary_of(texts, size)
    found = windows(texts, vocabulary, length)
    expected = [
        (list(text[max(0, i - length) : i]), text[i], number)
        for number, text in enumerate(texts)
        for i in range(1, len(text))
    ]
    assert found.x.shape == (len(expected), length)
    names = ["", "?", *vocabulary]
    for x, y, of, (before, after, number) in zip(*found, expected, strict=True):
        known = [token if token in vocabulary else "?" for token in before]
        assert [names[n] for n in x] == [""] * (length - len(before)) + known
        assert names[1:][y] == (after if after in vocabulary else "?")
        assert of == number


def test_the_most_frequent_have_numbers():
    assert vocabulary_of(["bba", "c", "b"], 2) == ("b", "a")
    assert tokens_of(" to  be\n", "word") == ["to", "be"]


POSTS = {
    "text": ["the cat sat", "the dog sat down", "a cat", "the end", "lone"],
    "author": ["ann", "bob", "ann", "cid", "dee"],
}


def table(tmp_path, **columns):
    path = tmp_path / "posts.parquet"
    datasets.Dataset.from_dict(POSTS | columns).to_parquet(path)
    return path


def test_whole_texts_are_for_training_or_testing_and_owners_go_with_them(tmp_path):
    path = table(tmp_path)
    loaded = data.load(
        "table",
        path,
        client_column="author",
        input_columns="text",
        split_by="client",
        test_fraction=0.25,
        next_token="word",
        window=2,
        vocabulary=3,
    )
    assert loaded.words == loaded.labels[1:] and len(loaded.words) == 3
    assert loaded.num_classes == 4 and loaded.characters is None
    names = ["", "?", *loaded.words]
    sentences = [[names[n] for n in row] for row in loaded.train.x]
    assert all(len(row) == 2 for row in sentences)
    owners = loaded.owners
    train = {owners.names[n] for n in owners.train}
    test = {owners.names[n] for n in owners.test}
    assert not train & test and train | test <= set(POSTS["author"]) - {"dee"}
    # Who wrote three words has two examples, who wrote one has none.
    counts = {
        name: int(np.sum(owners.train == number) + np.sum(owners.test == number))
        for number, name in enumerate(owners.names)
    }
    assert counts == {"ann": 3, "bob": 3, "cid": 1, "dee": 0}
    assert "next word of text after up to 2, 3 known" in loaded.notes


def test_characters_are_predicted_too(tmp_path):
    loaded = data.load(
        "table",
        table(tmp_path),
        next_token="character",
        split_by="example",
        test_fraction=0.5,
        client_column="author",
    )
    assert loaded.train.x.shape[1] == 80
    assert set(loaded.characters) == set(loaded.labels[1:]) and loaded.words is None


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {}, "one column of texts: it has text, author"),
        ({}, {"input_columns": "age"}, "no column 'age'|has no column"),
        (
            {"age": [1] * 5},
            {"input_columns": "age"},
            "one column of texts: it has none",
        ),
        ({"text": ["one"] * 5}, {"input_columns": "text"}, "has two words"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, columns, options, message):
    path = table(tmp_path, **columns)
    options = {"next_token": "word", "split_by": "example"} | options
    with pytest.raises(InputError, match=message):
        data.load("table", path, **options)

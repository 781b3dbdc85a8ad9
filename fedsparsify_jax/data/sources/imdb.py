"""Text classification: words to integer sequences, as Keras prepares them.

The vocabulary is counted over all training texts at once. Like the channel statistics
of images this is a central statistic, which a real federation would have to compute
securely or take from public text.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedsparsify_jax.data.dataset import Dataset, from_arrays
from fedsparsify_jax.data.formats.columns import label_column, text_column
from fedsparsify_jax.data.formats.tables import (
    Splits,
    local_files,
    open_files,
    open_hub,
    require_split,
)
from fedsparsify_jax.data.subset import subset_rows
from fedsparsify_jax.errors import InputError

PADDING, UNKNOWN = 0, 1
VOCABULARY_SIZE = 25_000
"""Different integers in the inputs, padding and unknown included: rows of an embedding.

With 128 columns and two bidirectional LSTMs of 64 units this is what gives the authors'
IMDB network its 3,397,761 parameters.
"""
SEQUENCE_LENGTH = 200
HUB_NAME = "stanfordnlp/imdb"

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_FORMATS = (".parquet", ".jsonl", ".csv")


def tokenize(text: str) -> list[str]:
    """Splits a text into lower-case words: letters, digits and inner apostrophes.

    >>> tokenize("It's GOOD -- 10/10!")
    ["it's", 'good', '10', '10']
    """
    return _WORD.findall(text.lower())


def vocabulary(texts: Iterable[str], max_size: int = VOCABULARY_SIZE) -> dict[str, int]:
    """Numbers the most frequent words, from 2; equally frequent ones by the alphabet.

    Args:
      texts: the training texts.
      max_size: integers to give out, with 0 for padding and 1 for unknown words.

    Example:
      >>> vocabulary(["b a b", "c b a"], max_size=4)
      {'b': 2, 'a': 3}
    """
    if max_size < 3:
        raise InputError(f"vocabulary size is {max_size}: it must be at least 3")
    counts = Counter(word for text in texts for word in tokenize(text))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {word: index for index, (word, _) in enumerate(ranked[: max_size - 2], 2)}


def encode(
    texts: Sequence[str], words: Mapping[str, int], length: int = SEQUENCE_LENGTH
) -> np.ndarray:
    """Converts texts to rows of one length.

    Long texts lose their beginning and short ones are padded at the beginning, the
    default of Keras' ``pad_sequences``: a recurrent network ends on the last word.

    Args:
      texts: n texts.
      words: from `vocabulary`.
      length: of the rows.

    Returns:
      int32 ``[n, length]``; a text without words is all padding.

    Example:
      >>> encode(["a b", "b b a x"], {"a": 2, "b": 3}, length=3).tolist()
      [[0, 2, 3], [3, 2, 1]]
    """
    if length < 1:
        raise InputError(f"sequence length is {length}: it must be at least 1")
    rows = np.full((len(texts), length), PADDING, np.int32)
    for row, text in zip(rows, texts, strict=True):
        numbers = [words.get(word, UNKNOWN) for word in tokenize(text)][-length:]
        row[length - len(numbers) :] = numbers
    return rows


def _open(data_dir: Path | None) -> tuple[str, Splits]:
    if data_dir is None:
        advice = (
            "put train and test files (.parquet, .jsonl or .csv with columns text and "
            "label) into a directory and name it with --data-dir"
        )
        return HUB_NAME, open_hub("imdb", HUB_NAME, advice)
    files = local_files(data_dir, _FORMATS)
    if not files:
        raise InputError(
            f"{data_dir} holds no files called train... or test... that end in "
            + ", ".join(_FORMATS)
        )
    return str(data_dir), open_files("imdb", files)


def load_imdb(
    data_dir: Path | None = None,
    *,
    vocabulary_size: int = VOCABULARY_SIZE,
    length: int = SEQUENCE_LENGTH,
    train_subset: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads IMDB film reviews (25,000 + 25,000, 2 classes) or texts in their format.

    Inputs are int32 word numbers below ``vocabulary_size``; the vocabulary is that of
    the training texts (of the subset, if one is taken).

    Args:
      data_dir: directory with ``train`` and ``test`` (or ``validation``) files in
        parquet, jsonl or csv with the columns ``text`` and ``label``; without it the
        Hugging Face hub is asked for ``stanfordnlp/imdb``.
      vocabulary_size: integers in use, padding and unknown included.
      length: words kept of a text, its last ones.
      train_subset: take only so many training texts, class-balanced.
      seed: which ones.

    Raises:
      InputError: if files or columns are missing, or a row has no text or label.

    References:
      Maas et al., Learning Word Vectors for Sentiment Analysis (ACL 2011).
    """
    what, splits = _open(data_dir)
    train = require_split(what, splits, "train")
    test = require_split(what, splits, "test", "validation")
    where, where_test = (
        f"the {table.split} split of {what}" for table in (train, test)
    )
    labels = label_column(where, train, "label")
    y_test = label_column(where_test, test, "label")
    rows = subset_rows(labels, train_subset, seed)
    # The vocabulary is that of the subset.
    column = text_column(where, train, "text")
    texts = [column[row] for row in rows]
    words = vocabulary(texts, vocabulary_size)
    return from_arrays(
        "imdb",
        encode(texts, words, length),
        labels[rows],
        encode(text_column(where_test, test, "text"), words, length),
        y_test,
        num_classes=int(max(labels.max(), y_test.max())) + 1,
    )

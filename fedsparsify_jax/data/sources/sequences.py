"""Texts of which every next token is learnt: the tokens before it, and which it is.

Tokens are characters, as of Shakespeare's parts in LEAF (arXiv 1812.01097), or words,
as of the answers on Stack Overflow (Reddi et al., arXiv 2003.00295). A text of L tokens
has L - 1 examples.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from fedsparsify_jax.data.sources.inputs import FIRST, OTHER, PADDING

Unit = Literal["character", "word"]
WINDOWS: dict[str, int] = {"character": 80, "word": 20}
"""Tokens that are seen before the next one, by default."""
VOCABULARY = 10_000
"""Tokens with numbers of their own, by default."""


class Windows(NamedTuple):
    """Examples of texts.

    Attributes:
      x: int32 ``[n, W]``, the tokens before; short beginnings are padded in front.
      y: int32 ``[n]``, the class of the next one: 0 for a token without a number of its
        own, then the vocabulary.
      texts: int ``[n]``, which text an example is from.
    """

    x: np.ndarray
    y: np.ndarray
    texts: np.ndarray


def tokens_of(text: str, unit: Unit) -> list[str]:
    """Returns the tokens of a text; words are what white space divides.

    >>> tokens_of("to be", "character"), tokens_of("to be", "word")
    (['t', 'o', ' ', 'b', 'e'], ['to', 'be'])
    """
    return list(text) if unit == "character" else text.split()


def vocabulary_of(texts: Iterable[Sequence[str]], size: int) -> tuple[str, ...]:
    """Returns the most frequent tokens, those first; of equals the alphabet's first.

    >>> vocabulary_of([["to", "be"], ["or", "be"]], 2)
    ('be', 'or')
    """
    counts = Counter(token for text in texts for token in text)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    return tuple(ranked[:size])


def windows(
    texts: Sequence[Sequence[str]], vocabulary: Sequence[str], length: int
) -> Windows:
    """Returns every next token of the texts, with up to ``length`` tokens before it.

    Args:
      texts: of tokens; those of one token have no example.
      vocabulary: tokens with numbers of their own, from 2; others share 1.
      length: W.

    Example:
      >>> x, y, texts = windows([["to", "be", "or"], ["be"]], ("be", "to"), 2)
      >>> x.tolist(), y.tolist(), texts.tolist()
      ([[0, 3], [3, 2]], [1, 0], [0, 0])
    """
    numbers = {token: number for number, token in enumerate(vocabulary, FIRST)}
    before = [np.zeros((0, length), np.int32)]
    after = [np.zeros(0, np.int32)]
    for text in texts:
        row = np.full(length + len(text), PADDING, np.int32)
        row[length:] = [numbers.get(token, OTHER) for token in text]
        views = np.lib.stride_tricks.sliding_window_view(row, length)
        before.append(views[1 : len(text)])
        after.append(row[length + 1 :] - OTHER)
    counts = [max(len(text) - 1, 0) for text in texts]
    return Windows(
        np.concatenate(before),
        np.concatenate(after).astype(np.int32),
        np.repeat(np.arange(len(texts)), counts),
    )

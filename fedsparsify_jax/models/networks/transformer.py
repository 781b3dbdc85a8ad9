"""A small decoder for sequences of tokens.

Radford et al., *Improving Language Understanding by Generative Pre-Training*, 2018: a
causal transformer whose state at the last token answers for the sequence.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedsparsify_jax.models.networks.attention import (
    POSITIONS,
    TransformerBlock,
    layer_norm,
)
from fedsparsify_jax.models.networks.layers import dense


class TextTransformer(nn.Module):
    """Word vectors and learnt positions, causal attention, a dense layer at the end.

    Answers for the whole sequence, as `TextLSTM` does: with a class a text it is a
    classifier, with a class a token of the vocabulary it predicts the next token
    (Shakespeare's next character, say). On 200 tokens and 2 classes 4,019,202
    parameters, of which 3,200,000 are word vectors. No dropout.

    Tokens of 0 are padding, at either end or in between: nothing attends to them, and
    positions count the others, so that padding never changes an answer.

    Attributes:
      num_classes: C, length of the output.
      vocabulary: words, padding included; larger tokens give NaN.
      width: W, of a word vector and of all blocks.
      layers: blocks.
      heads: of the attention.
      hidden: width of the hidden dense layer of a block.
    """

    num_classes: int
    vocabulary: int = 25_000
    width: int = 128
    layers: int = 4
    heads: int = 4
    hidden: int = 512

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps tokens ``[B, L]``, integers or whole floats, to logits ``[B, C]``."""
        del train, valid
        tokens = x.astype(jnp.int32)
        present, length = tokens != 0, tokens.shape[1]
        words = self.param("embedding", POSITIONS, (self.vocabulary, self.width))
        places = self.param("position_embedding", POSITIONS, (length, self.width))
        place = jnp.maximum(jnp.cumsum(present, axis=1) - 1, 0)
        x = jnp.take(words, tokens, axis=0, mode="fill")
        x = x + jnp.take(places, place, axis=0, mode="clip")
        # A token attends to those before it that are words, and to itself.
        order = jnp.arange(length)
        itself = jnp.eye(length, dtype=bool)[None]
        before = jnp.tril(~itself)
        seen = (before & present[:, None]) | itself
        for _ in range(self.layers):
            x = TransformerBlock(self.heads, self.hidden)(x, seen[:, None])
        last = jnp.max(jnp.where(present, order[None], 0), axis=1)
        x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        return dense(self.num_classes)(layer_norm()(x))

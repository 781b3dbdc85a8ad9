"""The bidirectional LSTM of the authors' IMDB experiments.

Hochreiter and Schmidhuber, *Long Short-Term Memory*, Neural Computation 1997; Schuster
and Paliwal, *Bidirectional Recurrent Neural Networks*, 1997.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from fedsparsify_jax.models.networks.layers import GLOROT, dense


class TextLSTM(nn.Module):
    """Embedding, two bidirectional LSTMs, and a dense layer on the last states.

    With 25,000 words, an embedding of 128, 64 units a direction and ``num_classes=1``
    the authors' 3,397,761 parameters (a single logit, for a sigmoid loss); two classes
    have two logits and 129 parameters more.

    Tokens of 0 are padding, at either end or in between: they leave the state as it
    is, so that padding never changes an answer. The authors' model reads them like
    words; ``mask_padding=False`` does that.

    Attributes:
      num_classes: C, length of the output.
      vocabulary: words, padding included; larger tokens give NaN.
      embedding: width of the word vectors.
      units: of every LSTM layer, for each direction.
      forget_bias: initial bias of the forget gates (Keras' unit forget bias).
      mask_padding: whether tokens of 0 are left out.
    """

    num_classes: int
    vocabulary: int = 25_000
    embedding: int = 128
    units: tuple[int, ...] = (64, 64)
    forget_bias: float = 1.0
    mask_padding: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps tokens ``[B, L]``, integers or whole floats, to logits ``[B, C]``."""
        del train, valid
        tokens = x.astype(jnp.int32)
        table = self.param(
            "embedding",
            # Keras' default for word vectors: uniform in [-.05, .05].
            lambda key, shape: jax.random.uniform(
                key, shape, minval=-0.05, maxval=0.05
            ),
            (self.vocabulary, self.embedding),
        )
        words = jnp.take(table, tokens, axis=0, mode="fill")
        words = jnp.swapaxes(words, 0, 1)  # time first, for the scan
        present = tokens.T != 0 if self.mask_padding else jnp.ones(tokens.T.shape, bool)
        for layer, units in enumerate(self.units):
            ends, words = self._both_ways(words, present, layer, units)
        return dense(self.num_classes)(ends)

    def _both_ways(
        self, x: jax.Array, present: jax.Array, layer: int, units: int
    ) -> tuple[jax.Array, jax.Array]:
        """Runs both directions: last states ``[B, 2 H]``, and all ``[L, B, 2 H]``."""
        ends, states = zip(
            *(
                LSTM(
                    units,
                    reverse=direction == "backward",
                    forget_bias=self.forget_bias,
                    name=f"{direction}_{layer}",
                )(x, present)
                for direction in ("forward", "backward")
            ),
            strict=True,
        )
        return jnp.concatenate(ends, axis=-1), jnp.concatenate(states, axis=-1)


class LSTM(nn.Module):
    """One direction of one layer, with one bias vector a gate.

    The inputs of all steps meet their kernel in one product before the scan; only the
    recurrent product is left inside.

    Attributes:
      units: H, width of the state.
      reverse: whether to read from the last step to the first.
      forget_bias: initial bias of the forget gate; the others start at zero.
    """

    units: int
    reverse: bool = False
    forget_bias: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Runs over time.

        Args:
          x: inputs ``[L, B, I]``.
          present: bool ``[L, B]``, False where the state stays as it is.

        Returns:
          The state after the last step read ``[B, H]``, and after every one
          ``[L, B, H]`` in the order of the inputs.
        """
        gates = 4 * self.units
        kernel = self.param("kernel", GLOROT, (x.shape[-1], gates))
        recurrent = self.param(
            "recurrent_kernel", nn.initializers.orthogonal(), (self.units, gates)
        )
        bias = self.param("bias", self._bias, (gates,))
        driven = x @ kernel + jnp.broadcast_to(bias, (*x.shape[:-1], gates))

        def step(
            carry: tuple[jax.Array, jax.Array], now: tuple[jax.Array, jax.Array]
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            cell, state = carry
            drive, is_word = now
            enter, forget, new, leave = jnp.split(drive + state @ recurrent, 4, axis=-1)
            fresh = nn.sigmoid(forget) * cell + nn.sigmoid(enter) * jnp.tanh(new)
            is_word = is_word[:, None]
            state = jnp.where(is_word, nn.sigmoid(leave) * jnp.tanh(fresh), state)
            return (jnp.where(is_word, fresh, cell), state), state

        start = jnp.zeros((x.shape[1], self.units), driven.dtype)
        (_, end), states = lax.scan(
            step, (start, start), (driven, present), reverse=self.reverse
        )
        return end, states

    def _bias(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        del key
        return jnp.zeros(shape).at[self.units : 2 * self.units].set(self.forget_bias)

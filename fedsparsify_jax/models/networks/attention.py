"""Blocks of transformers: attention over the tokens of an example, layer norm, MLP.

Vaswani et al., *Attention Is All You Need*, NeurIPS 2017, arXiv 1706.03762, with the
norms before attention and MLP (Xiong et al., arXiv 2002.04745).
"""

import flax.linen as nn
import jax

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.models.networks.layers import dense

POSITIONS = nn.initializers.normal(0.02)
"""Initialisation of learnt positions."""


def layer_norm() -> nn.LayerNorm:
    """Builds a layer norm with scale and bias, in two passes for the variance."""
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False)


class TransformerBlock(nn.Module):
    """Norm, attention, norm, two dense layers with GELU, around two shortcuts.

    Of width W, with H hidden units, ``4 (W^2 + W) + 2 W H + H + W + 4 W`` parameters.

    Attributes:
      heads: of the attention; they must divide the width.
      hidden: H, width of the hidden dense layer.

    Example:
      >>> block, x = TransformerBlock(heads=2, hidden=8), jax.numpy.ones((1, 3, 4))
      >>> variables = block.init(jax.random.key(0), x)
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
      172
    """

    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps tokens ``[B, T, W]`` to the same shape.

        Args:
          x: the tokens.
          mask: bool ``[B or 1, 1, T, T]``: which tokens (last axis) a token attends to;
            None for all.
        """
        x = x + Attention(self.heads)(layer_norm()(x), mask)
        y = nn.gelu(dense(self.hidden)(layer_norm()(x)))
        return x + dense(x.shape[-1])(y)


class Attention(nn.Module):
    """Scaled dot-product attention with several heads, of dense layers with biases.

    Attributes:
      heads: they must divide the width.
    """

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps tokens ``[B, T, W]`` to the same shape, see `TransformerBlock`."""
        width = x.shape[-1]
        if self.heads < 1 or width % self.heads:
            raise InputError(f"heads is {self.heads}: it must divide the width {width}")
        split = (*x.shape[:-1], self.heads, width // self.heads)
        query, key, value = (
            dense(width, name=name)(x).reshape(split)
            for name in ("query", "key", "value")
        )
        read = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return dense(width, name="out")(read.reshape(x.shape))

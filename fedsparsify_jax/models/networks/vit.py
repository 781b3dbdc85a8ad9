"""The smallest vision transformer, with patches for small images.

Dosovitskiy et al., *An Image Is Worth 16x16 Words*, ICLR 2021, arXiv 2010.11929; in the
size "Ti" of Touvron et al., *Training Data-Efficient Image Transformers*, ICML 2021,
arXiv 2012.12877.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.models.networks.attention import (
    POSITIONS,
    TransformerBlock,
    layer_norm,
)
from fedsparsify_jax.models.networks.layers import conv, dense, with_channels


class ViT(nn.Module):
    """Patches, a class token, learnt positions, and blocks of attention.

    On 32x32x3 images and 10 classes 5,362,762 parameters, on 28x28 gray ones
    5,353,738. No dropout. The class token and the positions are no kernels:
    `masks.kernels_only` keeps them whole.

    Attributes:
      num_classes: C, length of the output.
      patch: pixels along an edge of a patch; it must divide height and width.
      width: W, of a token.
      layers: blocks.
      heads: of the attention.
      hidden: width of the hidden dense layer of a block.
      conv: how patches are embedded, see `convolution.implementation`.
    """

    num_classes: int
    patch: int = 4
    width: int = 192
    layers: int = 12
    heads: int = 3
    hidden: int = 768
    conv: str = "auto"

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps images ``[B, H, W, C]`` or ``[B, H, W]`` to logits ``[B, C]``."""
        del train, valid
        x = with_channels(x, 2)
        height, width = x.shape[1:3]
        if self.patch < 1 or height % self.patch or width % self.patch:
            raise InputError(
                f"patch is {self.patch}: it must divide the {height} x {width} pixels"
            )
        # A token a patch, after that of the class.
        window = (self.patch, self.patch)
        x = conv(self.width, window, method=self.conv, strides=self.patch)(x)
        x = x.reshape(x.shape[0], -1, self.width)
        start = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(start, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("position_embedding", POSITIONS, (1, *x.shape[1:]))
        for _ in range(self.layers):
            x = TransformerBlock(self.heads, self.hidden)(x)
        return dense(self.num_classes)(layer_norm()(x[:, 0]))

"""VGG-16 with batch normalisation, the network of the CIFAR-100 experiments.

Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image
Recognition*, ICLR 2015, arXiv 1409.1556, configuration D for 32x32 images: the three
dense layers are a single one.
"""

from typing import Any

import flax.linen as nn
import jax

from fedsparsify_jax.models.networks.layers import (
    conv,
    dense,
    light_head,
    max_pool,
    shallower,
    with_channels,
)
from fedsparsify_jax.models.ops.batch_norm import BatchNorm


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions, each with batch norm and ReLU, and one dense layer.

    On 32x32x3 images and 100 classes 14,774,436 parameters and 8,448 batch statistics.

    Attributes:
      num_classes: C, length of the output.
      widths: channels of the convolutions of every stage; a stage ends with pooling,
        and is a block.
      conv: how convolutions are computed, see `convolution.implementation`.
      depth: blocks that a `light_head` follows, in place of all that is behind them;
        None for the whole network.
    """

    num_classes: int
    widths: tuple[tuple[int, ...], ...] = (
        (64,) * 2,
        (128,) * 2,
        (256,) * 3,
        (512,) * 3,
        (512,) * 3,
    )
    conv: str = "auto"
    depth: int | None = None

    sequential = True  # see `model.Model`

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps images ``[B, H, W, C]`` or ``[B, H, W]`` to logits ``[B, C]``."""
        x = with_channels(x, 2)
        for stage in self.widths[: self.depth]:
            for width in stage:
                x = conv(width, (3, 3), method=self.conv)(x)
                x = nn.relu(BatchNorm()(x, train=train, valid=valid))
            x = max_pool(x)
        if self.depth is not None:
            return light_head(x, self.num_classes, self.depth)
        return dense(self.num_classes)(x.reshape(x.shape[0], -1))

    def first_blocks(self) -> tuple[Any, ...]:
        """Returns the networks of its first blocks, see `model.Model`."""
        return shallower(self, len(self.widths))

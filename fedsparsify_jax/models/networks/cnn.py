"""The convolutional network of the paper's CIFAR-10 experiments."""

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


class CNN(nn.Module):
    """Pairs of 3x3 convolutions with pooling, and one hidden dense layer.

    64, 64, pool, norm, 128, 128, pool, norm, 128, 128, pool, dense 512, dropout .2,
    classes; ReLU after every convolution and the hidden layer. On 32x32x3 images and
    10 classes 1,609,930 parameters and 384 batch statistics.

    Attributes:
      num_classes: C, length of the output.
      widths: channels of every pair of convolutions, each of them a block.
      hidden: width of the hidden dense layer.
      dropout: rate before the last layer.
      conv: how convolutions are computed, see `convolution.implementation`.
      depth: blocks that a `light_head` follows, in place of all that is behind them;
        None for the whole network.
    """

    num_classes: int
    widths: tuple[int, ...] = (64, 128, 128)
    hidden: int = 512
    dropout: float = 0.2
    conv: str = "auto"
    depth: int | None = None

    sequential = True  # see `model.Model`

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps images ``[B, H, W, C]`` or ``[B, H, W]`` to logits ``[B, C]``."""
        x = with_channels(x, 2)
        for number, width in enumerate(self.widths[: self.depth]):
            if number > 0:
                x = BatchNorm()(x, train=train, valid=valid)
            for _ in range(2):
                x = nn.relu(conv(width, (3, 3), method=self.conv)(x))
            x = max_pool(x)
        if self.depth is not None:
            return light_head(x, self.num_classes, self.depth)
        x = nn.relu(dense(self.hidden)(x.reshape(x.shape[0], -1)))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return dense(self.num_classes)(x)

    def first_blocks(self) -> tuple[Any, ...]:
        """Returns the networks of its first blocks, see `model.Model`."""
        return shallower(self, len(self.widths))

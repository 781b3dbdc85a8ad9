"""ResNet-56 for CIFAR, pre-activated, as in the authors' CIFAR-10 experiments.

He, Zhang, Ren and Sun, *Identity Mappings in Deep Residual Networks*, ECCV 2016, arXiv
1603.05027, in the 6n+2 layers for 32x32 images of *Deep Residual Learning for Image
Recognition*, CVPR 2016, arXiv 1512.03385. Shortcuts have no parameters: where a stage
halves the image they average 2x2 windows and fill the new channels with zeros, half of
them on either side.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedsparsify_jax.models.networks.layers import (
    conv,
    dense,
    light_head,
    mean_pool,
    shallower,
    with_channels,
)
from fedsparsify_jax.models.ops.batch_norm import BatchNorm


class ResNet(nn.Module):
    """A residual network of ``2 * blocks * len(widths) + 2`` layers.

    With the defaults ResNet-56: on 32x32x3 images and 10 classes 853,018 parameters and
    4,064 batch statistics.

    Attributes:
      num_classes: C, length of the output.
      widths: channels of the stages; all but the first start by halving the image.
      blocks: n, blocks of two convolutions in a stage.
      conv: how convolutions are computed, see `convolution.implementation`.
      depth: stages that a `light_head` follows, in place of all that is behind them;
        None for the whole network.
    """

    num_classes: int
    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 9
    conv: str = "auto"
    depth: int | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps images ``[B, H, W, C]`` or ``[B, H, W]`` to logits ``[B, C]``."""
        x = with_channels(x, 2)
        x = conv(self.widths[0], (3, 3), method=self.conv, use_bias=False)(x)
        for stage, width in enumerate(self.widths[: self.depth]):
            for block in range(self.blocks):
                x = Block(
                    width,
                    halve=stage > 0 and block == 0,
                    shortcut_from_activation=stage == 0 and block == 0,
                    conv=self.conv,
                )(x, train=train, valid=valid)
        if self.depth is not None:
            return light_head(x, self.num_classes, self.depth)
        x = nn.relu(BatchNorm()(x, train=train, valid=valid))
        return dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))

    def first_blocks(self) -> tuple[Any, ...]:
        """Returns the networks of its first blocks, see `model.Model`."""
        return shallower(self, len(self.widths))


class Block(nn.Module):
    """Norm, ReLU, convolution, twice, around a shortcut.

    Attributes:
      width: channels of the output.
      halve: whether the image is halved.
      shortcut_from_activation: whether the shortcut starts behind the first norm and
        ReLU, as in the first block of the network, instead of before them.
      conv: how convolutions are computed.
    """

    width: int
    halve: bool = False
    shortcut_from_activation: bool = False
    conv: str = "auto"

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps ``[B, H, W, I]`` to ``[B, H', W', width]``."""
        active = nn.relu(BatchNorm()(x, train=train, valid=valid))
        shortcut = self._fitted(active if self.shortcut_from_activation else x)
        strides = 2 if self.halve else 1
        y = conv(self.width, (3, 3), method=self.conv, strides=strides, use_bias=False)(
            active
        )
        y = nn.relu(BatchNorm()(y, train=train, valid=valid))
        y = conv(self.width, (3, 3), method=self.conv, use_bias=False)(y)
        return y + shortcut

    def _fitted(self, x: jax.Array) -> jax.Array:
        """Brings the shortcut into the shape of the block's output."""
        if self.halve:
            odd = [(0, size % 2) for size in x.shape[1:3]]
            x = mean_pool(jnp.pad(x, [(0, 0), *odd, (0, 0)], mode="edge"), (2, 2))
        missing = self.width - x.shape[-1]
        before = missing // 2
        sides = (before, missing - before)
        return jnp.pad(x, [(0, 0), (0, 0), (0, 0), sides])

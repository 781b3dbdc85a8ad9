"""ResNet-18 with group norm, the network of Fed-CIFAR-100.

Hsieh, Phanishayee, Mutlu and Gibbons, *The Non-IID Data Quagmire of Decentralized
Machine Learning*, ICML 2020, arXiv 1910.00189, show that batch norm fails where clients
hold different classes and group norm does not. Reddi et al., *Adaptive Federated
Optimization*, ICLR 2021, arXiv 2003.00295, train this network on Fed-CIFAR-100, pre-
activated (He et al., arXiv 1603.05027). What their text leaves open is as in their
public code (google-research/federated, ``utils/models/resnet_models.py``): stages after
the first do not halve the image, shortcuts that change the width are normalised, and
the group norm is TensorFlow Addons' of the time, with two groups and an epsilon of
.001.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedsparsify_jax.models.networks.layers import (
    conv,
    dense,
    light_head,
    overlapping_max_pool,
    shallower,
    with_channels,
)

_HE = nn.initializers.he_normal()


class ResNetGN(nn.Module):
    """A residual network of ``2 * sum(blocks) + 2`` layers without batch statistics.

    With the defaults ResNet-18: on images of any size with 3 channels and 100 classes
    11,227,812 parameters. A 7x7 convolution and a 3x3 pooling, both of stride two, come
    first. Every example is normalised by itself, so clients of any batch size, padding
    or labels have the same network.

    Attributes:
      num_classes: C, length of the output.
      widths: channels of the stages.
      blocks: of two convolutions in every stage.
      strides: of the first block of every stage. Those of He et al. and of torchvision
        are ``(1, 2, 2, 2)``, which is a fifth of the work, or less, on small images.
      groups: of the norms; they must divide the widths.
      conv: how convolutions are computed, see `convolution.implementation`.
      depth: stages that a `light_head` follows, in place of all that is behind them;
        None for the whole network.
    """

    num_classes: int
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    strides: tuple[int, ...] = (1, 1, 1, 1)
    groups: int = 2
    conv: str = "auto"
    depth: int | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps images ``[B, H, W, C]`` or ``[B, H, W]`` to logits ``[B, C]``."""
        del train, valid
        stem = conv(
            self.widths[0],
            (7, 7),
            method=self.conv,
            strides=2,
            use_bias=False,
            init=_HE,
        )
        x = nn.relu(_norm(self.groups)(stem(with_channels(x, 2))))
        x = overlapping_max_pool(x)
        stages = list(zip(self.widths, self.blocks, self.strides, strict=True))
        for stage, (width, blocks, strides) in enumerate(stages[: self.depth]):
            for block in range(blocks):
                x = GroupNormBlock(
                    width,
                    strides=strides if block == 0 else 1,
                    activated=stage == 0 and block == 0,
                    groups=self.groups,
                    conv=self.conv,
                )(x)
        if self.depth is not None:
            return light_head(x, self.num_classes, self.depth)
        x = jnp.mean(nn.relu(_norm(self.groups)(x)), axis=(1, 2))
        return dense(self.num_classes, init=nn.initializers.normal(0.01))(x)

    def first_blocks(self) -> tuple[Any, ...]:
        """Returns the networks of its first blocks, see `model.Model`."""
        return shallower(self, len(self.widths))


class GroupNormBlock(nn.Module):
    """Norm, ReLU, convolution, twice, around a shortcut.

    Attributes:
      width: channels of the output.
      strides: of the first convolution and the shortcut.
      activated: whether the inputs are normalised and rectified already, as those of
        the first block of the network are.
      groups: of the norms.
      conv: how convolutions are computed.
    """

    width: int
    strides: int = 1
    activated: bool = False
    groups: int = 2
    conv: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, I]`` to ``[B, H', W', width]``."""
        y = x if self.activated else nn.relu(_norm(self.groups)(x))
        y = self._conv(3, self.strides)(y)
        y = self._conv(3, 1)(nn.relu(_norm(self.groups)(y)))
        if x.shape != y.shape:
            x = _norm(self.groups)(self._conv(1, self.strides)(x))
        return x + y

    def _conv(self, window: int, strides: int) -> nn.Conv:
        return conv(
            self.width,
            (window, window),
            method=self.conv,
            strides=strides,
            use_bias=False,
            init=_HE,
        )


def _norm(groups: int) -> nn.GroupNorm:
    # In two passes: the difference of E[x^2] and E[x]^2 loses digits.
    return nn.GroupNorm(groups, epsilon=1e-3, use_fast_variance=False)

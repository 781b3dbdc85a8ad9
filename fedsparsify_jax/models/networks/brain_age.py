"""The 3-D network of the paper's brain age experiments (UK Biobank T1 volumes).

Stripelis, Gupta, Dhinagar, Ver Steeg, Thompson and Ambite, *Towards Sparsified
Federated Neuroimaging Models via Weight Pruning*, 2022, arXiv 2208.11669.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedsparsify_jax.models.networks.layers import (
    conv,
    max_pool,
    mean_pool,
    with_channels,
)
from fedsparsify_jax.models.ops.batch_norm import InstanceNorm


class BrainAgeCNN(nn.Module):
    """Five blocks of 3x3x3 convolution, instance norm, pooling and ReLU; regression.

    Then a 1x1x1 convolution to 64 with norm and ReLU, means over windows of 2x3x2,
    and a 1x1x1 convolution to the age, whose bias starts at the mean age of the
    population. Instance norm has no parameters but running statistics (see
    `batch_norm.InstanceNorm`): 2,948,801 parameters and 1,600 statistics.

    A volume of 91x109x91 arrives at the means as exactly one window. Where a volume is
    larger, the answers of its windows are averaged; where it is smaller than a window,
    the window shrinks to it, so any size works.

    Attributes:
      num_classes: length of the output; 1 for the age.
      widths: channels of the blocks.
      hidden: channels of the 1x1x1 convolution behind them.
      window: of the means.
      mean_age: initial bias of the output.
      frozen: evaluate with the running statistics, as the authors' inference benchmark
        does, instead of each volume's own.
      conv: how convolutions are computed, see `convolution.implementation`.
    """

    num_classes: int = 1
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    hidden: int = 64
    window: tuple[int, int, int] = (2, 3, 2)
    mean_age: float = 62.68
    frozen: bool = False
    conv: str = "auto"

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps volumes ``[B, D, H, W, C]`` or ``[B, D, H, W]`` to ages ``[B, 1]``."""
        x = with_channels(x, 3)
        for width in self.widths:
            x = conv(width, (3, 3, 3), method=self.conv)(x)
            x = InstanceNorm(self.frozen)(x, train=train, valid=valid)
            x = nn.relu(max_pool(x))
        x = conv(self.hidden, (1, 1, 1), method=self.conv)(x)
        x = nn.relu(InstanceNorm(self.frozen)(x, train=train, valid=valid))
        x = mean_pool(x, self.window)
        last = conv(self.num_classes, (1, 1, 1), method=self.conv, bias=self.mean_age)
        return jnp.mean(last(x), axis=(1, 2, 3))

"""The convolutional network of federated EMNIST, and of pfl's CIFAR-10 benchmark.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan, *Adaptive Federated
Optimization*, ICLR 2021, arXiv 2003.00295, appendix A; FedJAX, FLUTE and FedML train it
on FEMNIST, pfl-research (arXiv 2404.06430) on CIFAR-10.
"""

import flax.linen as nn
import jax

from fedsparsify_jax.models.networks.layers import conv, dense, max_pool, with_channels


class FemnistCNN(nn.Module):
    """Two 3x3 convolutions without padding, one pooling, one hidden dense layer.

    32, 64, pool, dropout .25, dense 128, dropout .5, classes; ReLU after both
    convolutions and the hidden layer. On 28x28 images and 62 classes 1,206,590
    parameters, with 10 classes 1,199,882; on 32x32x3 and 10 classes pfl's 1,626,442.
    Kernels are Glorot-uniform as in pfl; Reddi et al. draw Glorot-normal.

    This is not LEAF's network (arXiv 1812.01097), which has 5x5 windows and a hidden
    layer of 2,048.

    Attributes:
      num_classes: C, length of the output.
      widths: channels of the convolutions.
      hidden: width of the hidden dense layer.
      dropout: rates after the pooling and after the hidden layer.
      conv: how convolutions are computed, see `convolution.implementation`.
    """

    num_classes: int
    widths: tuple[int, ...] = (32, 64)
    hidden: int = 128
    dropout: tuple[float, float] = (0.25, 0.5)
    conv: str = "auto"

    sequential = True  # see `model.Model`

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps images ``[B, H, W, C]`` or ``[B, H, W]`` to logits ``[B, C]``."""
        del valid
        x = with_channels(x, 2)
        for width in self.widths:
            x = nn.relu(conv(width, (3, 3), method=self.conv, padding="VALID")(x))
        early, late = self.dropout
        x = nn.Dropout(early)(max_pool(x), deterministic=not train)
        x = nn.relu(dense(self.hidden)(x.reshape(x.shape[0], -1)))
        x = nn.Dropout(late)(x, deterministic=not train)
        return dense(self.num_classes)(x)

"""LeNet-5, the small convolutional network of many pruning papers."""

import flax.linen as nn
import jax

from fedsparsify_jax.models.networks.layers import conv, dense, max_pool, with_channels


class LeNet5(nn.Module):
    """Two 5x5 convolutions with pooling and three dense layers.

    6, pool, 16, pool, dense 120, dense 84, classes: on 28x28 images and 10 classes
    61,706 parameters, on 32x32x3 with ``padding="VALID"`` 62,006. As it is trained
    today, which is not how LeCun, Bottou, Bengio and Haffner describe it
    (*Gradient-Based Learning Applied to Document Recognition*, 1998): ReLU in place of
    scaled tanh, maxima in place of trained means, every map reads all maps before it,
    and logits in place of radial basis functions.

    Attributes:
      num_classes: C, length of the output.
      widths: channels of the two convolutions.
      hidden: widths of the hidden dense layers.
      padding: of the first convolution: ``"SAME"``, as if 28x28 images were padded to
        the paper's 32x32, or ``"VALID"``. The second one is always valid.
      conv: how convolutions are computed, see `convolution.implementation`.
    """

    num_classes: int
    widths: tuple[int, int] = (6, 16)
    hidden: tuple[int, ...] = (120, 84)
    padding: str = "SAME"
    conv: str = "auto"

    sequential = True  # see `model.Model`

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps images ``[B, H, W, C]`` or ``[B, H, W]`` to logits ``[B, C]``."""
        del train, valid
        x = with_channels(x, 2)
        for width, padding in zip(self.widths, (self.padding, "VALID"), strict=True):
            layer = conv(width, (5, 5), method=self.conv, padding=padding)
            x = max_pool(nn.relu(layer(x)))
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden:
            x = nn.relu(dense(width)(x))
        return dense(self.num_classes)(x)

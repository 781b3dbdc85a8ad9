"""The multilayer perceptron of the paper's FashionMNIST experiments."""

from typing import Any

import flax.linen as nn
import jax

from fedsparsify_jax.models.networks.layers import dense, light_head, shallower


class MLP(nn.Module):
    """Dense layers with ReLU between them, on flattened inputs.

    Glorot-uniform kernels and zero biases; 784-128-128-10 with the defaults on 28x28
    images, 118,282 parameters.

    Attributes:
      num_classes: C, length of the output.
      hidden: widths of the hidden layers, each of them a block.
      depth: blocks that a `light_head` follows, in place of all that is behind them;
        None for the whole network.
    """

    num_classes: int
    hidden: tuple[int, ...] = (128, 128)
    depth: int | None = None

    sequential = True  # see `model.Model`

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Maps inputs ``[B, ...]`` to logits ``[B, C]``."""
        del train, valid
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden[: self.depth]:
            x = nn.relu(dense(width)(x))
        if self.depth is not None:
            return light_head(x, self.num_classes, self.depth)
        return dense(self.num_classes)(x)

    def first_blocks(self) -> tuple[Any, ...]:
        """Returns the networks of its first blocks, see `model.Model`."""
        return shallower(self, len(self.hidden))

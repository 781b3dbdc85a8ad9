"""Models by name, and adapters for the user's own."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from fedsparsify_jax.errors import unknown
from fedsparsify_jax.models.adapters import Model as Model
from fedsparsify_jax.models.adapters import from_functions as from_functions
from fedsparsify_jax.models.adapters import from_linen as from_linen
from fedsparsify_jax.models.mlp import MLP as MLP

__all__ = ["MLP", "NAMES", "Model", "build", "from_functions", "from_linen"]

_MODULES: dict[str, Callable[..., nn.Module]] = {"mlp": MLP}

NAMES = tuple(_MODULES)
"""What `build` knows."""


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    preprocess: Callable[[jax.Array], jax.Array] | None = None,
    **options: Any,
) -> Model:
    """Builds a model of the paper.

    Args:
      name: one of `NAMES`. ``"mlp"`` is the 784-128-128-10 network of the FashionMNIST
        experiments (118,282 parameters), for any input shape and number of classes.
      input_shape: shape of one example, without the batch axis.
      num_classes: C, length of the output.
      preprocess: raw inputs ``[B, ...]`` to what the network sees, part of the model
        from then on (scaling uint8 pixels, for instance).
      **options: of the network, such as ``hidden=(32,)`` for the MLP.

    Raises:
      InputError: for an unknown name, or a shape or class count that cannot be.

    Example:
      >>> model = build("mlp", input_shape=(28, 28), num_classes=10)
      >>> variables = model.init(jax.random.key(0))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
      118282
    """
    if name not in _MODULES:
        raise unknown("model", name, _MODULES)
    module = _MODULES[name](num_classes=num_classes, **options)
    return from_linen(module, input_shape, preprocess=preprocess)

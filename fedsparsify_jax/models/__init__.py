"""Models by name, and adapters for the user's own."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from fedsparsify_jax.errors import InputError, unknown
from fedsparsify_jax.models.adapters.linen import Augment as Augment
from fedsparsify_jax.models.adapters.linen import Model as Model
from fedsparsify_jax.models.adapters.linen import Preprocess as Preprocess
from fedsparsify_jax.models.adapters.linen import from_functions as from_functions
from fedsparsify_jax.models.adapters.linen import from_linen as from_linen
from fedsparsify_jax.models.adapters.nnx import from_nnx as from_nnx
from fedsparsify_jax.models.networks.brain_age import BrainAgeCNN as BrainAgeCNN
from fedsparsify_jax.models.networks.cnn import CNN as CNN
from fedsparsify_jax.models.networks.lstm import TextLSTM as TextLSTM
from fedsparsify_jax.models.networks.mlp import MLP as MLP
from fedsparsify_jax.models.networks.resnet import ResNet as ResNet
from fedsparsify_jax.models.networks.vgg import VGG16 as VGG16

__all__ = [
    "CNN",
    "MLP",
    "NAMES",
    "VGG16",
    "Augment",
    "BrainAgeCNN",
    "Model",
    "Preprocess",
    "ResNet",
    "TextLSTM",
    "build",
    "from_functions",
    "from_linen",
    "from_nnx",
]


class _Network(NamedTuple):
    module: Callable[..., nn.Module]
    ranks: tuple[int, ...]  # numbers of axes that one example may have, () for any
    example: str  # the shape of one example, for people
    dtype: Any = jnp.float32  # of what the network sees


_IMAGE = ((2, 3), "[H, W] or [H, W, C]")

_NETWORKS = {
    "mlp": _Network(MLP, (), "any"),
    "cnn": _Network(CNN, *_IMAGE),
    "vgg16_bn": _Network(VGG16, *_IMAGE),
    "resnet56": _Network(ResNet, *_IMAGE),
    "brain_age_cnn": _Network(BrainAgeCNN, (3, 4), "[D, H, W] or [D, H, W, C]"),
    "lstm": _Network(TextLSTM, (1,), "[L], tokens", jnp.int32),
}

NAMES = tuple(_NETWORKS)
"""What `build` knows."""


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    preprocess: Preprocess | None = None,
    augment: Augment | None = None,
    **options: Any,
) -> Model:
    """Builds a model of the paper.

    ================= ======================= ============ ==========
    name              in the paper for        parameters   statistics
    ================= ======================= ============ ==========
    ``mlp``           FashionMNIST              118,282
    ``cnn``           CIFAR-10                1,609,930           384
    ``vgg16_bn``      CIFAR-100              14,774,436         8,448
    ``resnet56``      CIFAR-10 (authors)        853,018         4,064
    ``brain_age_cnn`` BrainAge                2,948,801         1,600
    ``lstm``          IMDB (authors)          3,397,761
    ================= ======================= ============ ==========

    All take other input shapes and numbers of classes too. Answers are ``[B, C]``:
    logits, or ages in years for ``brain_age_cnn`` with ``num_classes=1``. The count of
    ``lstm`` is for ``num_classes=1``, a single logit that wants a sigmoid loss; with
    two classes it fits the usual cross-entropy.

    Args:
      name: one of `NAMES`.
      input_shape: shape of one example, without the batch axis.
      num_classes: C, length of the output.
      preprocess: raw inputs ``[B, ...]`` to what the network sees, part of the model
        from then on (scaling uint8 pixels, for instance).
      augment: ``(key, x) -> x`` on raw inputs, in training steps only.
      **options: attributes of the network, such as ``hidden=(32,)`` for the MLP or
        ``conv="patches"`` for those with convolutions; see `MLP`, `CNN`, `VGG16`,
        `ResNet`, `BrainAgeCNN`, `TextLSTM`.

    Raises:
      InputError: for an unknown name or option, or a shape or class count that cannot
        be.

    Example:
      >>> import jax
      >>> model = build("mlp", input_shape=(28, 28), num_classes=10)
      >>> variables = model.init(jax.random.key(0))
      >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
      118282
    """
    if name not in _NETWORKS:
        raise unknown("model", name, _NETWORKS)
    network = _NETWORKS[name]
    shape = tuple(input_shape)
    if any(size < 1 for size in shape) or (
        network.ranks and len(shape) not in network.ranks
    ):
        raise InputError(
            f"model {name!r} takes examples of shape {network.example}: got {shape}"
        )
    if num_classes < 1:
        raise InputError(f"num_classes is {num_classes}: it must be at least 1")
    known = _options(network.module)
    for option in options:
        if option not in known:
            raise unknown(f"option of model {name!r}", option, known)
    module = network.module(num_classes=num_classes, **options)
    return from_linen(
        module,
        shape,
        preprocess=preprocess,
        augment=augment,
        input_dtype=network.dtype,
    )


def _options(module: Any) -> list[str]:
    """The attributes of a module that `build` may set."""
    given = {"num_classes", "parent", "name"}
    return [f.name for f in dataclasses.fields(module) if f.name not in given]

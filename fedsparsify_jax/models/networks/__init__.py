"""The networks of the experiments by name, one file an architecture."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from fedsparsify_jax.errors import InputError, unknown
from fedsparsify_jax.models.adapters.linen import from_linen
from fedsparsify_jax.models.adapters.model import Augment, Model, Preprocess
from fedsparsify_jax.models.networks.brain_age import BrainAgeCNN
from fedsparsify_jax.models.networks.cnn import CNN
from fedsparsify_jax.models.networks.femnist import FemnistCNN
from fedsparsify_jax.models.networks.lenet import LeNet5
from fedsparsify_jax.models.networks.lstm import TextLSTM
from fedsparsify_jax.models.networks.mlp import MLP
from fedsparsify_jax.models.networks.resnet import ResNet
from fedsparsify_jax.models.networks.resnet_gn import ResNetGN
from fedsparsify_jax.models.networks.transformer import TextTransformer
from fedsparsify_jax.models.networks.vgg import VGG16
from fedsparsify_jax.models.networks.vit import ViT


class _Network(NamedTuple):
    module: Any  # a class of Flax modules
    shapes: str = "[H, W] or [H, W, C]"  # of one example, for errors
    ranks: tuple[int, ...] = (2, 3)  # axes that one example may have, () for any number
    dtype: Any = jnp.float32  # of the network's inputs


_NETWORKS = {
    "mlp": _Network(MLP, shapes="any", ranks=()),
    "cnn": _Network(CNN),
    "vgg16_bn": _Network(VGG16),
    "resnet56": _Network(ResNet),
    "brain_age_cnn": _Network(
        BrainAgeCNN, shapes="[D, H, W] or [D, H, W, C]", ranks=(3, 4)
    ),
    "lstm": _Network(TextLSTM, shapes="[L], tokens", ranks=(1,), dtype=jnp.int32),
    "lenet5": _Network(LeNet5),
    "femnist_cnn": _Network(FemnistCNN),
    "cnn_pfl": _Network(FemnistCNN),  # the name that pfl's benchmark is looked for by
    "resnet18_gn": _Network(ResNetGN),
    "vit_tiny": _Network(ViT),
    "transformer": _Network(
        TextTransformer, shapes="[L], tokens", ranks=(1,), dtype=jnp.int32
    ),
}

_NO_OPTIONS = {"num_classes", "depth", "parent", "name"}
"""Attributes of every module that are not for the user."""

NAMES = tuple(_NETWORKS)
"""The names that `build` takes."""


def options_of(name: str) -> tuple[str, ...]:
    """Returns the options of a network, see `build`.

    >>> options_of("mlp"), "conv" in options_of("cnn")
    (('hidden',), True)
    """
    if name not in _NETWORKS:
        raise unknown("model", name, _NETWORKS)
    fields = dataclasses.fields(_NETWORKS[name].module)
    return tuple(f.name for f in fields if f.name not in _NO_OPTIONS)


def reads_tokens(name: str) -> bool:
    """Returns whether a network takes integers as they are, unscaled.

    >>> reads_tokens("lstm"), reads_tokens("cnn")
    (True, False)
    """
    return name in _NETWORKS and _NETWORKS[name].dtype == jnp.int32


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    preprocess: Preprocess | None = None,
    augment: Augment | None = None,
    compute_dtype: DTypeLike | None = None,
    **options: Any,
) -> Model:
    """Builds a model of the paper, or of today's federated benchmarks.

    ================= ======================== ============ ==========
    name              in the literature for    parameters   statistics
    ================= ======================== ============ ==========
    ``mlp``           FashionMNIST (paper)       118,282
    ``cnn``           CIFAR-10 (paper)         1,609,930           384
    ``vgg16_bn``      CIFAR-100 (paper)       14,774,436         8,448
    ``resnet56``      CIFAR-10 (authors)         853,018         4,064
    ``brain_age_cnn`` BrainAge (paper)         2,948,801         1,600
    ``lstm``          IMDB (authors)           3,397,761
    ``lenet5``        MNIST                       61,706
    ``femnist_cnn``   FEMNIST                  1,206,590
    ``cnn_pfl``       CIFAR-10 (pfl)           1,626,442
    ``resnet18_gn``   Fed-CIFAR-100           11,227,812
    ``vit_tiny``      CIFAR-10                 5,362,762
    ``transformer``   IMDB                     4,019,202
    ================= ======================== ============ ==========

    All take other input shapes and numbers of classes too. Answers are ``[B, C]``:
    logits, or ages in years for ``brain_age_cnn`` with ``num_classes=1``. The count of
    ``lstm`` is for ``num_classes=1``, a single logit that wants a sigmoid loss; with
    two classes it fits the usual cross-entropy. ``cnn_pfl`` is ``femnist_cnn``: pfl has
    it for CIFAR-10.

    Args:
      name: one of `NAMES`.
      input_shape: shape of one example, without the batch axis.
      num_classes: C, length of the output.
      preprocess: raw inputs ``[B, ...]`` to the network's, part of the model from then
        on (scaling uint8 pixels, for instance).
      augment: ``(key, x) -> x`` on raw inputs, in training steps only.
      compute_dtype: of the forward pass and its derivative, see `from_linen`.
      **options: attributes of the network, such as ``hidden=(32,)`` for the MLP or
        ``conv="patches"`` for those with convolutions; see `MLP`, `CNN`, `VGG16`,
        `ResNet`, `BrainAgeCNN`, `TextLSTM`, `LeNet5`, `FemnistCNN`, `ResNetGN`, `ViT`,
        `TextTransformer`.

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
    # The shape of an example and the length of the output.
    shape = tuple(input_shape)
    if any(size < 1 for size in shape) or (
        network.ranks and len(shape) not in network.ranks
    ):
        raise InputError(
            f"model {name!r} takes examples of shape {network.shapes}: got {shape}"
        )
    if num_classes < 1:
        raise InputError(f"num_classes is {num_classes}: it must be at least 1")
    # The network's own options.
    accepted = options_of(name)
    for option in options:
        if option not in accepted:
            raise unknown(f"option of model {name!r}", option, accepted)
    return from_linen(
        network.module(num_classes=num_classes, **options),
        shape,
        preprocess=preprocess,
        augment=augment,
        input_dtype=network.dtype,
        compute_dtype=compute_dtype,
    )

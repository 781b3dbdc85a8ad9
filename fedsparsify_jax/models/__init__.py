"""Models by name, and adapters for the user's own."""

from fedsparsify_jax.models.adapters.functions import from_functions
from fedsparsify_jax.models.adapters.linen import from_linen
from fedsparsify_jax.models.adapters.model import Augment, Model, Preprocess
from fedsparsify_jax.models.adapters.nnx import from_nnx
from fedsparsify_jax.models.networks import NAMES, build
from fedsparsify_jax.models.networks.brain_age import BrainAgeCNN
from fedsparsify_jax.models.networks.cnn import CNN
from fedsparsify_jax.models.networks.lstm import TextLSTM
from fedsparsify_jax.models.networks.mlp import MLP
from fedsparsify_jax.models.networks.resnet import ResNet
from fedsparsify_jax.models.networks.vgg import VGG16

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

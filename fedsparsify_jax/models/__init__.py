"""Models by name, and adapters for the user's own."""

from fedsparsify_jax.models.adapters.functions import from_functions
from fedsparsify_jax.models.adapters.linen import from_linen
from fedsparsify_jax.models.adapters.lora import lora
from fedsparsify_jax.models.adapters.lora import merged as merge_lora
from fedsparsify_jax.models.adapters.model import Augment, Model, Preprocess
from fedsparsify_jax.models.adapters.nnx import from_nnx
from fedsparsify_jax.models.networks import NAMES, build, options_of, reads_tokens
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

__all__ = [
    "CNN",
    "MLP",
    "NAMES",
    "VGG16",
    "Augment",
    "BrainAgeCNN",
    "FemnistCNN",
    "LeNet5",
    "Model",
    "Preprocess",
    "ResNet",
    "ResNetGN",
    "TextLSTM",
    "TextTransformer",
    "ViT",
    "build",
    "from_functions",
    "from_linen",
    "from_nnx",
    "lora",
    "merge_lora",
    "options_of",
    "reads_tokens",
]

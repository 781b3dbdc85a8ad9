"""The imperative shell: configuration, the training loop, files and progress."""

from fedsparsify_jax.runner.config import TrainConfig as TrainConfig
from fedsparsify_jax.runner.training import train as train

__all__ = ["TrainConfig", "train"]

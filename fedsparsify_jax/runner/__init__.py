"""The imperative shell: configuration, the training loop, files and progress."""

from fedsparsify_jax.runner.options.config import TrainConfig as TrainConfig
from fedsparsify_jax.runner.options.sweep_config import SweepConfig as SweepConfig
from fedsparsify_jax.runner.sweep import sweep as sweep
from fedsparsify_jax.runner.train import train as train

__all__ = ["SweepConfig", "TrainConfig", "sweep", "train"]

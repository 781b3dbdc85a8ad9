"""The imperative shell: configuration, the training loop, files and progress."""

from fedsparsify_jax.runner.config import TrainConfig as TrainConfig
from fedsparsify_jax.runner.sweep_config import SweepConfig as SweepConfig
from fedsparsify_jax.runner.sweeping import sweep as sweep
from fedsparsify_jax.runner.training import train as train

__all__ = ["SweepConfig", "TrainConfig", "sweep", "train"]

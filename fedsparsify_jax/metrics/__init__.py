"""What a run is measured by: evaluation and communication."""

from fedsparsify_jax.metrics.communication import nonzero_bytes as nonzero_bytes
from fedsparsify_jax.metrics.evaluation import Evaluation as Evaluation
from fedsparsify_jax.metrics.evaluation import evaluate as evaluate

__all__ = ["Evaluation", "evaluate", "nonzero_bytes"]

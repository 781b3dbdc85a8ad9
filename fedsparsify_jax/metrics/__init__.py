"""What a run is measured by: evaluation, communication and FLOPs."""

from fedsparsify_jax.metrics.communication import Saving as Saving
from fedsparsify_jax.metrics.communication import bitmap_bytes as bitmap_bytes
from fedsparsify_jax.metrics.communication import dense_bytes as dense_bytes
from fedsparsify_jax.metrics.communication import indexed_bytes as indexed_bytes
from fedsparsify_jax.metrics.communication import nonzero_bytes as nonzero_bytes
from fedsparsify_jax.metrics.communication import saving as saving
from fedsparsify_jax.metrics.evaluation import Evaluation as Evaluation
from fedsparsify_jax.metrics.evaluation import evaluate as evaluate
from fedsparsify_jax.metrics.flops import LayerFlops as LayerFlops
from fedsparsify_jax.metrics.flops import inference_flops as inference_flops
from fedsparsify_jax.metrics.flops import layer_flops as layer_flops
from fedsparsify_jax.metrics.flops import training_flops as training_flops

__all__ = [
    "Evaluation",
    "LayerFlops",
    "Saving",
    "bitmap_bytes",
    "dense_bytes",
    "evaluate",
    "indexed_bytes",
    "inference_flops",
    "layer_flops",
    "nonzero_bytes",
    "saving",
    "training_flops",
]

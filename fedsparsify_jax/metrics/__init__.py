"""Measures of a run: evaluation, communication and FLOPs."""

from fedsparsify_jax.metrics.communication import (
    Saving,
    bitmap_bytes,
    dense_bytes,
    indexed_bytes,
    nonzero_bytes,
    saving,
)
from fedsparsify_jax.metrics.evaluation import Evaluation, evaluate
from fedsparsify_jax.metrics.flops import (
    LayerFlops,
    inference_flops,
    layer_flops,
    training_flops,
)
from fedsparsify_jax.metrics.per_client import evaluate_clients

__all__ = [
    "Evaluation",
    "LayerFlops",
    "Saving",
    "bitmap_bytes",
    "dense_bytes",
    "evaluate",
    "evaluate_clients",
    "indexed_bytes",
    "inference_flops",
    "layer_flops",
    "nonzero_bytes",
    "saving",
    "training_flops",
]

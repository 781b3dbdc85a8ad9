"""The results of a run that is over: the model and the summary."""

import dataclasses
from typing import Any

import numpy as np

from fedsparsify_jax import masks, trees
from fedsparsify_jax.metrics import inference_flops, layer_flops, training_flops
from fedsparsify_jax.runner.display.summary import Record, blind, doubt, summarize
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.registry import prunable
from fedsparsify_jax.runner.programs.federation import Federation
from fedsparsify_jax.runner.programs.spared import spared_layers
from fedsparsify_jax.runner.storage.model_files import save_model
from fedsparsify_jax.runner.storage.run_directory import RunDirectory
from fedsparsify_jax.types import State


def _model_description(
    config: TrainConfig, federation: Federation, summary: dict[str, Any]
) -> dict[str, Any]:
    dataset = federation.dataset
    return {
        "model": config.model,
        "input_shape": list(dataset.train.x.shape[1:]),
        "input_dtype": str(dataset.train.x.dtype),
        "num_classes": dataset.num_classes,
        "normalization": dataclasses.asdict(dataset.normalization),
        "task": dataset.task,
        "dataset": dataset.name,
        "algorithm": config.algorithm,
        f"test_{federation.task.metric}": summary[f"test_{federation.task.metric}"],
        "sparsity": summary["sparsity"],
    }


def _flops(
    federation: Federation, state: State, kept: dict[str, int]
) -> dict[str, int]:
    """Counts the FLOPs of one example, dense and at the final masks."""
    x = federation.dataset.test.x[:1]
    try:
        layers = layer_flops(federation.model.apply, state.variables, x.shape, x.dtype)
    except ValueError:  # a loop of unknown length, say
        return {}
    return {
        "inference_flops_dense": inference_flops(layers),
        "inference_flops": inference_flops(layers, kept=kept),
        "training_flops_dense": training_flops(layers),
        "training_flops": training_flops(layers, kept=kept),
    }


def write(
    config: TrainConfig,
    federation: Federation,
    directory: RunDirectory,
    state: State,
    records: list[Record],
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the model and the summary of a run that is over; returns the summary.

    Args:
      config: resolved.
      federation: what was trained.
      directory: of the run.
      state: the last one, after post-training.
      records: of all rounds.
      more: what else the summary says.
    """
    spared = spared_layers(config.spare, federation.model, federation.dataset)
    may_go = prunable(dataclasses.asdict(config) | {"spare": spared})
    counted = masks.prunable_only(state.masks, may_go)
    may_go = prunable(dataclasses.asdict(config))
    model = federation.algorithm.model(state)
    # Some algorithms have more in their state than in the model.
    counted = masks.prunable_only(trees.restricted(state.masks, model), may_go)
    summary = summarize(
        records,
        parameters=trees.size(counted),
        kept=int(trees.nonzeros(counted)),
        numbers=trees.size(model),
        compression=config.upload_compression,
    )
    summary |= _flops(federation, state, records[-1]["kept"])
    summary |= more or {}
    if federation.compact:
        summary["sparse_training"] = federation.compact.summary()
    is_class = federation.dataset.task == "classification"
    chance, error = blind(np.asarray(federation.dataset.test.y), is_class=is_class)
    if warning := doubt(summary, records, chance + (2 if is_class else -2) * error):
        summary["warning"] = warning
    with directory.writing():
        save_model(
            directory.model, model, _model_description(config, federation, summary)
        )
    directory.write_summary(summary)
    return summary

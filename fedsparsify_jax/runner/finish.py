"""The results of a run that is over: the model and the summary."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fedsparsify_jax import masks, trees
from fedsparsify_jax.client_map import chunked
from fedsparsify_jax.data import Dataset
from fedsparsify_jax.runner.display.summary import (
    Record,
    blind,
    doubt,
    evaluated,
    summarize,
)
from fedsparsify_jax.runner.flops import Layers, flops_of, layers_of
from fedsparsify_jax.runner.options import privacy
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.registry import prunable, takes
from fedsparsify_jax.runner.programs import linear_evaluation
from fedsparsify_jax.runner.programs.federation import Federation, network_options
from fedsparsify_jax.runner.programs.program import (
    Evaluations,
    EvaluationSets,
    evaluate_sets,
    evaluation_sets,
)
from fedsparsify_jax.runner.programs.spared import spared_layers
from fedsparsify_jax.runner.storage.model_files import save_model
from fedsparsify_jax.runner.storage.run_directory import RunDirectory
from fedsparsify_jax.types import Prunable, State, Variables, nothing_more


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
    } | _meanings(config, dataset)


def _meanings(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """Returns what classes and numbers of the inputs stand for, where that is known."""
    found: dict[str, Any] = {}
    if dataset.labels is not None:
        found["labels"] = list(dataset.labels)
    if dataset.characters is not None:
        found["characters"] = dataset.characters
    if dataset.words is not None:
        found["words"] = list(dataset.words)
    if options := network_options(config, dataset):
        found["options"] = options
    return found


Evaluate = Callable[[Variables], Record]
"""A model to the fields of its evaluation on the run's sets, as after a round."""


def _evaluation(federation: Federation) -> Evaluate:
    sets, batches = evaluation_sets(federation.dataset), chunked(1)

    @jax.jit
    def run(variables: Variables, sets: EvaluationSets) -> Evaluations:
        network = federation.model.apply, variables
        return evaluate_sets(federation, network, sets, batches)

    def evaluate(variables: Variables) -> Record:
        evaluations = jax.device_get(run(variables, sets))
        return evaluated(evaluations, federation.task.metric)

    return evaluate


def _post_trained(
    config: TrainConfig,
    model: Variables,
    state: State,
    evaluate: Evaluate,
    may_go: Prunable | None,
) -> Record:
    """Returns the fields of a record that what came after the rounds changed."""
    kept = {name: int(count) for name, count in masks.kept(state.masks).items()}
    fields = evaluate(model)
    fields |= {
        "sparsity": float(masks.sparsity(state.masks, may_go)),
        "kept": kept,
    }
    if takes(config.algorithm, "final_sparsity"):
        fields["target_sparsity"] = config.final_sparsity
    return fields


def _variants(
    models: dict[str, Variables], evaluate: Evaluate, may_go: Prunable | None
) -> dict[str, tuple[Variables, Record]]:
    """Returns models that were trained at once, and what there is to say of each."""
    rows = {}
    for name, variables in models.items():
        counted = masks.prunable_only(variables, may_go)
        kept, total = int(trees.nonzeros(counted)), trees.size(counted)
        sizes = {"sparsity": 1 - kept / total, "parameters_kept": kept}
        rows[name] = variables, evaluate(variables) | sizes
    return rows


def write(
    config: TrainConfig,
    federation: Federation,
    directory: RunDirectory,
    state: State,
    records: list[Record],
    more: dict[str, Any] | None = None,
    layers: Layers | None = None,
) -> dict[str, Any]:
    """Writes the model and the summary of a run that is over; returns the summary.

    Args:
      config: resolved.
      federation: what was trained.
      directory: of the run.
      state: the last one, after post-training.
      records: of all rounds.
      more: what else the summary says.
      layers: as from `layers_of`, if they are known from another run of the network.
    """
    spared = spared_layers(config.spare, federation.model, federation.dataset)
    may_go = prunable(dataclasses.asdict(config) | {"spare": spared})
    model = federation.algorithm.model(state)
    # Some algorithms have more in their state than in the model.
    counted = masks.prunable_only(trees.restricted(state.masks, model), may_go)
    finished, evaluate = None, _evaluation(federation)
    variants = federation.algorithm.variants(state)
    if without_labels := linear_evaluation.wanted(config):
        fit = linear_evaluation.classifier_of(federation.model, federation.dataset)
        model, variants = fit(model), {name: fit(v) for name, v in variants.items()}
    if federation.algorithm.finish is not nothing_more or without_labels:
        finished = _post_trained(config, model, state, evaluate, may_go)
    summary = summarize(
        records,
        parameters=trees.size(counted),
        kept=int(trees.nonzeros(counted)),
        numbers=trees.size(model),
        compression=config.upload_compression,
        finished=finished,
    )
    if without_labels:  # the rounds' answers are of no classes
        summary.pop("before_post_training")
    kept = (finished or records[-1])["kept"]
    layers = layers or layers_of(federation, state.variables)
    summary |= flops_of(config, federation, layers, records, kept)
    summary |= privacy.described(federation.options(config)) | (more or {})
    if federation.compact:
        summary["sparse_training"] = federation.compact.summary()
    is_class = federation.dataset.task == "classification"
    chance, error = blind(np.asarray(federation.dataset.test.y), is_class=is_class)
    if warning := doubt(summary, records, chance + (2 if is_class else -2) * error):
        summary["warning"] = warning
    models = {directory.model: (model, summary)}
    if levels := _variants(variants, evaluate, may_go):
        summary["levels"] = {name: row for name, (_, row) in levels.items()}
        models |= {directory.level(name): pair for name, pair in levels.items()}
    with directory.writing():
        for path, (each, row) in models.items():
            whole = federation.start.whole(each) if federation.start else each
            save_model(path, whole, _model_description(config, federation, row))
    directory.write_summary(summary)
    return summary

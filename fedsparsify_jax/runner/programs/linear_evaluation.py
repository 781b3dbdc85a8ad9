"""Runs that learn without labels: what they may be, and how their models are judged."""

from collections.abc import Callable

import jax
import numpy as np

from fedsparsify_jax import data
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.metrics.prediction import examples_at_once, outputs_of
from fedsparsify_jax.models import Model
from fedsparsify_jax.models.adapters.layers import features_of
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.registry import takes
from fedsparsify_jax.runner.programs.spared import shapes_of, spared_layers
from fedsparsify_jax.training.linear_probe import Linear, fitted
from fedsparsify_jax.types import ApplyFn, Variables

LOSS = "contrastive"


def wanted(config: TrainConfig) -> bool:
    """Returns whether a run learns without labels."""
    return config.loss == LOSS and takes(config.algorithm, "loss")


def check(config: TrainConfig, model: Model, dataset: data.Dataset) -> None:
    """Refuses runs that cannot learn from views, or not be judged by a classifier.

    Raises:
      InputError: in one line.
    """
    if not wanted(config):
        return
    if dataset.task != "classification":
        raise InputError(
            f"--loss {LOSS} is judged by a linear classifier, the targets of "
            f"{dataset.name!r} are numbers"
        )
    if config.augmentation == "off":
        raise InputError(
            f"--loss {LOSS} compares views that augmentation makes: leave "
            "--augmentation on"
        )
    if len(dataset.train.x.shape) not in (3, 4):
        raise InputError(
            f"--loss {LOSS} compares views of images, the examples of "
            f"{dataset.name!r} have shape {dataset.train.x.shape[1:]}"
        )
    path = "/".join(_features(model, dataset)[0])
    if path not in spared_layers(config.spare, model, dataset):
        raise InputError(
            f"--spare is {config.spare!r}: with --loss {LOSS} the last layer is "
            "fitted after the rounds, and never pruned: add last"
        )


def _features(model: Model, dataset: data.Dataset) -> tuple[tuple[str, ...], ApplyFn]:
    x = dataset.train.x
    example = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    try:
        return features_of(model.apply, shapes_of(model), example)
    except InputError as error:
        raise InputError(f"--loss {LOSS}: {error}") from None


def classifier_of(
    model: Model, dataset: data.Dataset
) -> Callable[[Variables], Variables]:
    """Returns what gives a network a classifier of its features as the last layer.

    It is fitted to the whole training set, so that it needs the clients' labels in one
    place: a measurement, as in the paper, and no part of the federation.
    """
    path, features = _features(model, dataset)
    x, y = np.asarray(dataset.train.x), np.asarray(dataset.train.y)
    batch_size = examples_at_once(x.shape[1:])

    @jax.jit
    def fit(variables: Variables, x: jax.Array, y: jax.Array) -> Linear:
        learnt = outputs_of(features, variables, x, batch_size=batch_size)
        return fitted(learnt, y, dataset.num_classes)

    def classified(variables: Variables) -> Variables:
        layer = jax.device_get(fit(variables, x, y))
        new: Variables = jax.tree.map(lambda leaf: leaf, variables)  # dicts of its own
        place = new["params"]
        for name in path[:-1]:
            place = place[name]
        old = place[path[-1]]
        place[path[-1]] = {
            "kernel": layer.kernel.astype(old["kernel"].dtype),
            **({"bias": layer.bias.astype(old["bias"].dtype)} if "bias" in old else {}),
        }
        return new

    return classified

"""From a configuration to everything a run needs, checked before any file is."""

from typing import Any, NamedTuple

import jax
import numpy as np

from fedsparsify_jax import algorithms, data, models
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.config import TrainConfig
from fedsparsify_jax.types import ClientData, FederatedAlgorithm


class Federation(NamedTuple):
    """A federation ready to train."""

    dataset: data.Dataset
    parts: list[np.ndarray]
    clients: ClientData
    model: Model
    algorithm: FederatedAlgorithm


def partition(config: TrainConfig, labels: np.ndarray) -> list[np.ndarray]:
    """One index array a client, as the configuration says."""
    clients, seed = config.num_clients, config.seed
    match config.partition:
        case "iid":
            return data.iid(labels, clients, seed)
        case "label-shards":
            return data.label_shards(labels, clients, config.classes_per_client, seed)
        case "dirichlet":
            return data.dirichlet(labels, clients, config.alpha, seed)
        case "quantity-skew":
            return data.quantity_skew(labels, clients, config.alpha, seed)
    raise AssertionError(f"unresolved partition {config.partition}")


def build_algorithm(config: TrainConfig, model: Model) -> FederatedAlgorithm:
    """The configured algorithm."""
    engine: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "momentum": config.momentum,
        "optimizer_state": config.optimizer_state,
        "num_clients": config.num_clients,
        "local_epochs": config.local_epochs,
        "batch_size": config.batch_size,
        "participation": config.participation,
    }
    purge: dict[str, Any] = {
        "final_sparsity": config.final_sparsity,
        "rounds": config.rounds,
        "exponent": config.exponent,
        "every": config.frequency,
    }
    match config.algorithm:
        case "fedavg":
            return algorithms.fedavg(model.apply, **engine)
        case "fedsparsify-global":
            return algorithms.fedsparsify_global(model.apply, **purge, **engine)
        case "fedsparsify-local":
            purge["vote_rule"] = config.vote_rule
            return algorithms.fedsparsify_local(model.apply, **purge, **engine)
    raise AssertionError(f"unresolved algorithm {config.algorithm}")


def _check_fit(name: str, model: Model, dataset: data.Dataset) -> None:
    """Does the model take these examples and answer with these classes?"""
    shape = dataset.train.x.shape[1:]
    x = jax.ShapeDtypeStruct((1, *shape), dataset.train.x.dtype)
    try:
        variables = jax.eval_shape(model.init, jax.random.key(0))
        outputs, _ = jax.eval_shape(model.apply, variables, x)
    except (TypeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"model {name!r} does not fit {dataset.name!r}, whose examples have shape "
            f"{shape}: {reason}"
        ) from error
    if outputs.shape != (1, dataset.num_classes):
        raise InputError(
            f"model {name!r} answers with shape {outputs.shape[1:]}, {dataset.name!r} "
            f"has {dataset.num_classes} classes"
        )


def assemble(config: TrainConfig) -> Federation:
    """Loads the data, divides it, builds the model and the algorithm.

    Args:
      config: resolved.

    Raises:
      InputError: for data that is missing, damaged, or does not fit.
    """
    dataset = data.load(config.dataset, config.data_dir)
    parts = partition(config, dataset.train.y)
    model = models.build(
        config.model,
        input_shape=dataset.train.x.shape[1:],
        num_classes=dataset.num_classes,
        preprocess=dataset.normalization,
    )
    _check_fit(config.model, model, dataset)
    clients = data.stack(dataset.train, parts)
    return Federation(dataset, parts, clients, model, build_algorithm(config, model))

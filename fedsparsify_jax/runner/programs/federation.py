"""From a configuration to everything a run needs, checked before any file is."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fedsparsify_jax import data, models
from fedsparsify_jax.engine.sampling import cohort_size
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.grammars import client_sizes
from fedsparsify_jax.runner.options.registry import build_algorithm
from fedsparsify_jax.runner.programs.compact import SparseTraining, sparse_training
from fedsparsify_jax.runner.programs.devices import Placement, place
from fedsparsify_jax.runner.programs.placement import cohort_map
from fedsparsify_jax.training.compact.wrapper import SmallForm
from fedsparsify_jax.training.losses import TASKS, Task
from fedsparsify_jax.types import ClientData, FederatedAlgorithm, Key


class Keys(NamedTuple):
    """The run's sources of randomness, all from its seed."""

    model: Key
    state: Key
    rounds: Key

    @classmethod
    def from_seed(cls, seed: int) -> "Keys":
        """Keys that depend on the seed alone."""
        return cls(*jax.random.split(jax.random.key(seed), 3))

    def of_finish(self) -> Key:
        """Returns the key of what comes after the last round."""
        return jax.random.fold_in(self.rounds, 0)


def round_key(key: Key, completed: jax.Array) -> Key:
    """Returns the key of the round after ``completed``, whatever came before it.

    That is what makes resuming exact.
    """
    return jax.random.fold_in(key, completed + 1)


class Federation(NamedTuple):
    """A federation ready to train."""

    dataset: data.Dataset
    parts: list[np.ndarray]
    clients: ClientData  # nobody, if their data stay on disk
    model: Model
    task: Task
    algorithm: FederatedAlgorithm
    placement: Placement
    population: data.Population | None = None  # the store that the data come from
    sparse: SparseTraining | None = None


def _sizes(config: TrainConfig, examples: int) -> list[int]:
    """The clients' sizes for partitions that are told them."""
    assert config.num_clients is not None
    wanted = [1] * config.num_clients
    if config.client_sizes is not None:
        wanted = client_sizes(config.client_sizes)
    if len(wanted) != config.num_clients:
        raise InputError(
            f"--client-sizes names {len(wanted)} clients, --num-clients "
            f"{config.num_clients}"
        )
    return data.proportional_sizes(examples, wanted)


def partition(config: TrainConfig, targets: np.ndarray) -> list[np.ndarray]:
    """One index array a client, as the configuration says.

    Raises:
      InputError: if the partition cannot be made of these targets.
    """
    clients, seed = config.num_clients, config.seed
    assert clients is not None
    needs_classes = config.partition in ("label-shards", "dirichlet")
    if needs_classes and not np.issubdtype(targets.dtype, np.integer):
        raise InputError(
            f"the partition {config.partition} needs classes, the targets are numbers: "
            "use iid, value-skew or quantity-skew"
        )
    match config.partition:
        case "iid" if config.client_sizes is not None:
            return data.by_sizes(targets, _sizes(config, len(targets)), seed)
        case "iid":
            return data.iid(targets, clients, seed)
        case "label-shards":
            return data.label_shards(targets, clients, config.classes_per_client, seed)
        case "dirichlet":
            return data.dirichlet(targets, clients, config.alpha, seed)
        case "quantity-skew":
            return data.quantity_skew(targets, clients, config.alpha, seed)
        case "value-skew":
            return data.value_skew(targets, _sizes(config, len(targets)), seed)
    raise AssertionError(f"unresolved partition {config.partition}")


def load(config: TrainConfig) -> data.Dataset:
    """The configured data set, cut down to the wanted subset."""
    subset = config.train_subset
    if subset is None:
        return data.load(config.dataset, config.data_dir)
    options = data.loader_options(config.dataset)
    if "train_subset" in options:  # reads only what is wanted
        wanted = {"train_subset": subset, "seed": config.seed}
        return data.load(config.dataset, config.data_dir, **wanted)
    dataset = data.load(config.dataset, config.data_dir)
    return dataset._replace(
        train=data.balanced_subset(dataset.train, subset, config.seed)
    )


def _check_fit(name: str, model: Model, dataset: data.Dataset) -> None:
    """Does the model take these examples and answer with these classes?"""
    shape = dataset.train.x.shape[1:]
    x = jax.ShapeDtypeStruct((1, *shape), dataset.train.x.dtype)
    try:
        variables = jax.eval_shape(model.init, jax.random.key(0))
        outputs, _ = jax.eval_shape(model.apply, variables, x)
    except (TypeError, ValueError, AssertionError, ZeroDivisionError) as error:
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


def _build_model(config: TrainConfig, dataset: data.Dataset) -> Model:
    assert config.model is not None
    # Without a normalization the model takes raw numbers as it likes (tokens, say).
    plain = dataset.normalization == data.Normalization()
    return models.build(
        config.model,
        input_shape=dataset.train.x.shape[1:],
        num_classes=dataset.num_classes,
        preprocess=None if plain else dataset.normalization,
        augment=dataset.augment if config.augmentation == "on" else None,
    )


def _clients(
    config: TrainConfig, dataset: data.Dataset, parts: list[np.ndarray]
) -> ClientData:
    """All clients' data, or none of them if they are to stay on disk."""
    if config.client_data == "memory":
        return data.stack(dataset.train, parts)
    nobody = np.zeros(0, np.int64)
    some = data.stack(dataset.train, [parts[0]])
    return jax.tree.map(lambda leaf: leaf[nobody], some)


def assemble(
    config: TrainConfig,
    devices: list[Any] | None = None,
    dataset: data.Dataset | None = None,
) -> Federation:
    """Loads the data, divides it, builds the model and the algorithm.

    Args:
      config: resolved.
      devices: of the run; all local ones by default.
      dataset: what `load` gives, if that is at hand already.

    Raises:
      InputError: for data that is missing, damaged, or does not fit, and for options
        that do not go together.
    """
    population = None
    if config.dataset == "store" and config.data_dir is not None:
        population = data.open_population(config.data_dir)
    if population is not None:
        dataset, parts = population.dataset, population.parts
    else:
        dataset = load(config) if dataset is None else dataset
        dataset = data.hold_out(dataset, config.validation_fraction, config.seed)
        parts = partition(config, dataset.train.y)
    model = _build_model(config, dataset)
    _check_fit(str(config.model), model, dataset)
    task = TASKS[dataset.task]
    clients = _clients(config, dataset, parts)
    devices = jax.local_devices() if devices is None else devices
    placement = place(clients, config.participation, devices)
    if config.client_data == "disk":
        placement = placement._replace(divided=False)
    options: dict[str, Any] = dataclasses.asdict(config)
    cohort = cohort_map(options, model, devices, placement.mesh)

    def build(form: SmallForm | None) -> FederatedAlgorithm:
        return build_algorithm(options, model, task, cohort, form, dataset.num_classes)

    try:
        algorithm = build(None)
    except ValueError as error:
        raise InputError(f"{config.algorithm}: {error}") from error
    federation = Federation(
        dataset, parts, clients, model, task, algorithm, placement, population
    )
    if config.sparse_training == "off":
        return federation
    return federation._replace(sparse=_sparse(config, federation, build))


def _sparse(
    config: TrainConfig,
    federation: Federation,
    build: Callable[[SmallForm | None], FederatedAlgorithm],
) -> SparseTraining:
    """What may make the clients' training smaller between rounds."""
    assert config.batch_size is not None
    devices = federation.placement.mesh.devices
    present = cohort_size(len(federation.parts), config.participation)
    longest = max(map(len, federation.parts))
    batches = -(-longest // config.batch_size) * config.local_epochs
    x = federation.dataset.train.x
    return sparse_training(
        build,
        federation.model,
        jax.eval_shape(federation.model.init, jax.random.key(0)),
        jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype),
        client_steps=present * batches * config.batch_size / 32 / devices.size,
        platform=devices.flat[0].platform,
    )

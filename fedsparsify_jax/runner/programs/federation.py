"""From a configuration to everything a run needs, checked before files are made."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import data, models
from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.data.sources.inputs import FIRST
from fedsparsify_jax.engine.sampling import cohort_size
from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.models import Augment, Model
from fedsparsify_jax.pruning import patterns
from fedsparsify_jax.runner.options import privacy
from fedsparsify_jax.runner.options.config import NATURAL, TrainConfig
from fedsparsify_jax.runner.options.grammars import client_sizes
from fedsparsify_jax.runner.options.registry import (
    build_algorithm,
    expected_sparsity,
    prunable,
    takes,
)
from fedsparsify_jax.runner.options.resolve import check_cohort
from fedsparsify_jax.runner.options.rules import in_options
from fedsparsify_jax.runner.options.sweep_grid import chooses_examples
from fedsparsify_jax.runner.programs import linear_evaluation, refusals
from fedsparsify_jax.runner.programs.client_memory import client_bytes
from fedsparsify_jax.runner.programs.compact import CompactTraining
from fedsparsify_jax.runner.programs.devices import Placement, place
from fedsparsify_jax.runner.programs.memory import check_memory
from fedsparsify_jax.runner.programs.natural import natural_clients, tests_of
from fedsparsify_jax.runner.programs.placement import ClientBytes, cohort_map
from fedsparsify_jax.runner.programs.spared import shapes_of, spared_layers
from fedsparsify_jax.runner.programs.start import Start, started
from fedsparsify_jax.training.compact.wrapper import Form, UnsuitableError
from fedsparsify_jax.training.losses import TASKS, Task
from fedsparsify_jax.types import ClientData, ClientRows, FederatedAlgorithm, Key


class Keys(NamedTuple):
    """Sources of randomness of a run, all from its seed."""

    model: Key
    state: Key
    rounds: Key

    @classmethod
    def from_seed(cls, seed: int) -> "Keys":
        """Returns keys that depend on the seed alone."""
        return cls(*jax.random.split(jax.random.key(seed), 3))

    def of_finish(self) -> Key:
        """Returns the key of what comes after the last round."""
        return jax.random.fold_in(self.rounds, 0)


def round_key(key: Key, completed: jax.Array) -> Key:
    """Returns the key of the round after ``completed``, whatever came before it.

    That is what makes resuming exact.
    """
    return jax.random.fold_in(key, completed + 1)


OF_LOADERS = (
    "client_column",
    "label_column",
    "input_columns",
    "split_by",
    "test_fraction",
    "train_subset",
    "seed",
    "next_token",
    "window",
    "vocabulary",
)
"""Options that are keywords of some loaders of data sets."""


class Federation(NamedTuple):
    """A federation ready to train."""

    dataset: data.Dataset
    parts: list[np.ndarray]
    clients: ClientData  # none of them, if their data stay on disk
    model: Model
    task: Task
    algorithm: FederatedAlgorithm
    placement: Placement
    population: data.Population | None = None  # the store that the data come from
    compact: CompactTraining | None = None  # if clients may train on compact forms
    tests: ClientRows | None = None  # of every client, if each is evaluated
    start: Start | None = None  # the weights of a file that it starts from
    seen: bool = True  # whether `parts` are rows of the data set, or of others' own

    def options(self, config: TrainConfig) -> dict[str, Any]:
        """Returns the options of a run, with the clients that the data count."""
        return dataclasses.asdict(config) | {"num_clients": len(self.parts)}


def _sizes(config: TrainConfig, examples: int) -> list[int]:
    """Returns the clients' sizes, for partitions that take them."""
    assert config.num_clients is not None
    shares = [1] * config.num_clients
    if config.client_sizes is not None:
        shares = client_sizes(config.client_sizes)
    if len(shares) != config.num_clients:
        raise InputError(
            f"--client-sizes names {counted(len(shares), 'client')}, --num-clients "
            f"{config.num_clients}"
        )
    return data.proportional_sizes(examples, shares)


def partition(
    config: TrainConfig, targets: np.ndarray, owners: data.Owners | None = None
) -> list[np.ndarray]:
    """Returns one index array a client, as the configuration says.

    Args:
      config: resolved.
      targets: of the training examples.
      owners: of the examples, for the partition natural.

    Raises:
      InputError: if the partition cannot be made of these targets.
    """
    if config.partition == NATURAL:
        assert owners is not None
        return natural_clients(config, owners).parts
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
    """Returns the configured data set, cut down to the subset that it asks for."""
    options = data.loader_options(config.dataset)
    given = {name: getattr(config, name) for name in options if name in OF_LOADERS}
    if "seed" in given and not chooses_examples(config):
        del given["seed"]
    dataset = data.load(config.dataset, config.data_dir, **given)
    if config.train_subset is None or "train_subset" in given:
        return dataset
    rows = data.balanced_rows(dataset.train.y, config.train_subset, config.seed)
    return data.with_rows(dataset, rows)


def _check_fit(name: str, model: Model, dataset: data.Dataset) -> None:
    """Checks that the model takes these examples and answers with these classes."""
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


def _augmentation(config: TrainConfig, dataset: data.Dataset) -> Augment | None:
    if config.augmentation == "off":
        return None
    if linear_evaluation.wanted(config):
        return data.random_view
    return dataset.augment


def _build_model(config: TrainConfig, dataset: data.Dataset) -> Model:
    assert config.model is not None
    # Without a normalization the model takes raw numbers as it likes (tokens, say).
    plain = dataset.normalization == data.Normalization()
    plain = plain or models.reads_tokens(config.model)
    return models.build(
        config.model,
        input_shape=dataset.train.x.shape[1:],
        num_classes=dataset.num_classes,
        preprocess=None if plain else dataset.normalization,
        augment=_augmentation(config, dataset),
        compute_dtype=jnp.bfloat16 if config.precision == "bf16" else None,
        **network_options(config, dataset),
    )


def network_options(config: TrainConfig, dataset: data.Dataset) -> dict[str, Any]:
    """Returns attributes of the network that the data settle."""
    tokens = dataset.characters or dataset.words
    if tokens is not None and models.reads_tokens(config.model or ""):
        return {"vocabulary": FIRST + len(tokens)}
    return {}


def checked_model(
    config: TrainConfig, dataset: data.Dataset
) -> tuple[Model, Start | None]:
    """Returns the model that is trained, and the weights that it starts from."""
    _check_fit(str(config.model), model := _build_model(config, dataset), dataset)
    linear_evaluation.check(config, model, dataset)
    model, start = started(config, model)
    shapes = lambda: jax.eval_shape(model.init, jax.random.key(0))
    privacy.check_training(dataclasses.asdict(config), shapes, len(dataset.train.y))
    return model, start


def algorithm_of(
    config: TrainConfig,
    model: Model,
    dataset: data.Dataset,
    clients: ClientMap,
    form: Form | None = None,
    **changed: Any,
) -> FederatedAlgorithm:
    """Builds the algorithm of a run.

    Args:
      config: resolved.
      model: what is trained.
      dataset: on what.
      clients: how the clients of a round are run.
      form: the compact form that they train on, where it fits.
      **changed: options in place of the configuration's, such as traced numbers, and
        the paths of spared layers where ``model`` does not take the examples.

    Raises:
      InputError: for options that do not go together.
      UnsuitableError: for an algorithm that cannot train on compact forms.
    """
    options = dataclasses.asdict(config)
    # No client has more examples: one is left to each of the others.
    most = len(dataset.train.y) - (config.num_clients or 1) + 1
    options |= {"batch_size": min(config.batch_size or 1, most), **changed}
    if "spare" not in changed:
        options["spare"] = spared_layers(config.spare, model, dataset)
    task, classes = TASKS[dataset.task], dataset.num_classes
    refusals.check_classes(config.cohort_sampling, dataset)
    try:
        if config.pattern is not None and takes(config.algorithm, "pattern"):
            patterns.check(config.pattern, shapes_of(model), prunable=prunable(options))
        built = build_algorithm(options, model, task, clients, form, classes)
    except UnsuitableError:
        raise
    except ValueError as error:
        raise refusals.refused(config.algorithm, error) from error
    return refusals.naming(config.algorithm, built)


def memory_of_clients(
    options: Mapping[str, Any],
    model: Model,
    dataset: data.Dataset,
    parts: list[np.ndarray],
) -> ClientBytes:
    """Returns what says how much memory a client in training takes on a device."""
    longest = max(map(len, parts))
    return lambda device: client_bytes(options, model, dataset, longest, device)


def assemble(
    config: TrainConfig,
    devices: list[Any] | None = None,
    dataset: data.Dataset | None = None,
) -> Federation:
    """Loads the data, divides it, builds the model and the algorithm.

    Args:
      config: resolved.
      devices: of the run; all local ones by default.
      dataset: what `load` gives, if that has been loaded already.

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
        try:
            parts = partition(config, dataset.train.y, dataset.owners)
        except InputError as error:
            raise InputError(in_options(str(error))) from None
    if config.num_clients is None:
        config = dataclasses.replace(config, num_clients=len(parts))
        check_cohort(config)
    model, start = checked_model(config, dataset)
    devices = jax.local_devices() if devices is None else devices
    on_disk = config.client_data == "disk"
    batch_size = min(config.batch_size or 1, max(map(len, parts)))
    check_memory(config, model, dataset.train.x, parts, batch_size, devices)
    clients = data.stack(dataset.train, parts[:1] if on_disk else parts)
    placement = place(clients, config.participation, devices)
    if on_disk:
        clients = jax.tree.map(lambda leaf: leaf[:0], clients)
        placement = placement._replace(divided=False)
    options = dataclasses.asdict(config)
    taken = memory_of_clients(options, model, dataset, parts)
    client_map = cohort_map(options, model, placement.mesh, taken)

    def build(form: Form | None = None) -> FederatedAlgorithm:
        return algorithm_of(
            config, model, dataset, client_map, form, batch_size=batch_size
        )

    federation = Federation(
        dataset=dataset,
        parts=parts,
        clients=clients,
        model=model,
        task=TASKS[dataset.task],
        algorithm=build(),
        placement=placement,
        population=population,
        start=start,
    )
    if evaluates_clients(config, federation):
        tests = tests_of(config, dataset, parts)
        federation = federation._replace(tests=tests)
    if config.sparse_training == "off":
        return federation
    return federation._replace(compact=_compact(config, federation, build))


def evaluates_clients(config: TrainConfig, federation: Federation) -> bool:
    """Returns whether the model of every client is evaluated.

    Raises:
      InputError: if it is to be, and the targets are no classes.
    """
    is_class = federation.dataset.task == "classification"
    if config.client_evaluation == "on" and not is_class:
        raise InputError(
            f"--client-evaluation on needs classes, the targets of "
            f"{federation.dataset.name!r} are numbers"
        )
    if config.client_evaluation is None:
        return is_class and federation.algorithm.client_model is not None
    return config.client_evaluation == "on"


def _compact(
    config: TrainConfig,
    federation: Federation,
    build: Callable[[Form | None], FederatedAlgorithm],
) -> CompactTraining:
    """Returns what may make the clients' training smaller between rounds."""
    devices = federation.placement.mesh.devices
    cohort = cohort_size(
        len(federation.parts), config.participation, config.cohort_sampling
    )
    longest = max(map(len, federation.parts))
    batch_size = min(config.batch_size or 1, longest)
    batches = config.local_steps or -(-longest // batch_size) * config.local_epochs
    return CompactTraining(
        build,
        federation.model,
        federation.dataset.train.x,
        client_steps=cohort * batches * batch_size / 32 / devices.size,
        tests=len(federation.dataset.test.y)
        / (32 * devices.size * config.evaluate_every),
        platform=devices.flat[0].platform,
        rounds=config.rounds or 0,
        sparsity=expected_sparsity(dataclasses.asdict(config)),
    )

"""Algorithms by name: which options reach them, and what the paper's defaults are."""

import dataclasses

import jax
import pytest

from fedsparsify_jax import algorithms, data, models
from fedsparsify_jax.algorithms.registry import ALGORITHMS
from fedsparsify_jax.client_map import vmapped
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options import defaults, registry, schema
from fedsparsify_jax.runner.options.config import NATURAL, PARTITIONS, TrainConfig
from fedsparsify_jax.runner.options.grammars import client_sizes
from fedsparsify_jax.runner.options.listing import having
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.programs.federation import load, partition
from fedsparsify_jax.training.losses import TASKS


def options(**changes):
    return dataclasses.asdict(resolve(TrainConfig(**changes)))


def test_every_algorithm_of_the_library_has_a_row():
    builders = [getattr(algorithms, name) for name in algorithms.__all__]
    assert {row.build for row in ALGORITHMS.values()} == set(builders)


def test_every_data_set_has_defaults():
    assert set(defaults.BY_DATASET) <= set(data.NAMES)
    for name in data.NAMES:
        assert defaults.of(name, "fedavg")["model"] in models.NAMES


def test_what_is_left_to_the_data_set_has_a_default():
    assert having(schema.BY_DATASET) == tuple(
        field for field in schema.read(TrainConfig) if field in defaults.USUAL
    )


def test_the_papers_settings():
    """Reference, section 4: model, clients, rounds, batch, rate, momentum."""
    fields = ("model", "num_clients", "rounds", "batch_size", "learning_rate")
    paper = {
        "fashion_mnist": ("mlp", 10, 200, 32, 0.02),
        "cifar10": ("cnn", 10, 200, 32, 0.005),
        "cifar100": ("vgg16_bn", 10, 100, 128, 0.01),
        "brain_age": ("brain_age_cnn", 8, 40, 1, 5e-5),
        "imdb": ("lstm", 10, 200, 32, 0.01),
    }
    for name, row in paper.items():
        config = resolve(TrainConfig(dataset=name))
        assert tuple(getattr(config, field) for field in fields) == row
        assert config.local_epochs == 4
    momenta = [
        resolve(TrainConfig(dataset=d)).momentum for d in ("cifar10", "cifar100")
    ]
    assert momenta == [0.75, 0.9]
    assert resolve(TrainConfig(dataset="cifar100")).nesterov == "on"


def test_every_option_of_an_algorithm_belongs_to_one():
    for field in registry.KEYWORDS:
        assert registry.takers(field), f"no algorithm takes {field}"


def test_every_keyword_of_a_builder_can_be_reached():
    reached = {*registry.KEYWORDS.values(), "schedule", "prunable", "parts"}
    # Functions, arrays and fine points of one method are for code alone.
    code_only = {"layer_time", "fixed_time", "example", "max_density", "droppable"}
    code_only |= {"half_life", "initial_adjustments", "initial_epochs", "iterations"}
    code_only |= {"temperature", "score_batch_size", "purge_until"}
    code_only |= {"post_batch_size", "post_learning_rate", "distillation"}
    for name, row in ALGORITHMS.items():
        missing = set(row.parameters) - reached - code_only
        assert not missing, f"{name}: {missing}"


def test_what_an_algorithm_has_no_use_for_is_named():
    untouched = options()
    dense = options(algorithm="fedavg", mu=0.5, final_sparsity=0.5, rounds=7)
    assert registry.unused(dense, untouched) == ["final_sparsity", "mu"]
    proximal = options(algorithm="fedprox", mu=0.5, rounds=7)
    assert registry.unused(proximal, untouched) == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_is_built_from_the_options(algorithm):
    model = models.build("mlp", input_shape=(8, 8), num_classes=10)
    built = registry.build_algorithm(
        options(algorithm=algorithm, prunable="kernels"),
        model,
        TASKS["classification"],
        vmapped(),
    )
    state = jax.eval_shape(
        lambda: built.init(jax.random.key(0), model.init(jax.random.key(1)))
    )
    assert state.round.shape == ()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "multiplicative"])
def test_other_schedules_reach_the_target_in_the_last_purge(schedule):
    target = registry.schedule(
        options(schedule=schedule, rounds=20, purge_share=0.5, fine_tune_rounds=5)
    )
    assert target is not None
    assert target(1) == 0.0
    assert target(15) == pytest.approx(0.9)


def test_client_sizes():
    assert client_sizes("skewed") == [2401, 1765, 1303, 964, 714, 528, 391, 290]
    with pytest.raises(InputError, match="whole numbers such as 30,20,10"):
        client_sizes("many")
    config = resolve(TrainConfig(client_sizes="3,2,1"))
    assert config.num_clients == 3
    dataset = load(config)
    assert [len(p) for p in partition(config, dataset.train.y)] == [719, 479, 239]
    with pytest.raises(InputError, match="names 3 clients, --num-clients 4"):
        wrong = resolve(TrainConfig(client_sizes="3,2,1", num_clients=4))
        partition(wrong, dataset.train.y)
    with pytest.raises(InputError, match="goes with the partitions iid and value-skew"):
        resolve(TrainConfig(client_sizes="3,2,1", partition="dirichlet"))


def test_classes_are_needed_where_classes_are_dealt_out():
    ages = load(TrainConfig()).train.y.astype("float32")
    for name in set(PARTITIONS) - {NATURAL}:  # which needs a column
        config = resolve(TrainConfig(partition=name))
        if name in ("label-shards", "dirichlet"):
            with pytest.raises(InputError, match="needs classes"):
                partition(config, ages)
        else:
            assert sum(map(len, partition(config, ages))) == len(ages)


def test_a_subset_is_balanced():
    dataset = load(resolve(TrainConfig(train_subset=100)))
    assert sorted(set(map(int, dataset.train.y))) == list(range(10))
    assert len(dataset.train.y) == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune_at": 99}, "--prune-at is 99: there are only 50 rounds"),
        ({"fine_tune_rounds": 50}, "--fine-tune-rounds is 50: it must be below the 50"),
        ({"dataset": "hf:nothing"}, "not of the form"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        resolve(TrainConfig(**changes))

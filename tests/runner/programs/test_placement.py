"""The rule behind ``--cohort auto``."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from fedsparsify_jax import models
from fedsparsify_jax.client_map import device_mesh
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.programs import placement
from fedsparsify_jax.trees import size


def largest_chunk(number_of_devices=1, **options):
    """How many of 7 clients meet in one call on one device."""
    shape = (8, 8)
    name = options.setdefault("model", "mlp")
    model = models.build(name, input_shape=shape, num_classes=10)
    mesh = device_mesh(jax.devices()[:number_of_devices])
    config = dataclasses.asdict(TrainConfig(**options))
    run = placement.cohort_map(config, model, mesh)
    sizes = []

    def summed(shared, stacked, results, present):
        sizes.append(present.shape[0])
        return shared, results

    jax.eval_shape(
        lambda x: run(lambda shared, one: one, jnp.float32(0), x, summed), jnp.zeros(7)
    )
    return max(sizes)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1),
        ({"cohort": "vmap"}, 7),
        ({"model": "cnn"}, 1),
        ({"model": "cnn", "chunk_size": 3}, 3),
        ({"cohort": "map"}, 1),
        ({"cohort": "map", "chunk_size": 2}, 2),
        ({"cohort": "vmap", "model": "cnn"}, 7),
        ({"chunk_size": 5}, 5),
        ({"number_of_devices": 2, "cohort": "vmap"}, 4),
        ({"number_of_devices": 2, "chunk_size": 3}, 3),
    ],
)
def test_how_many_clients_train_at_once(options, expected):
    assert largest_chunk(**options) == expected


def test_large_models_get_small_chunks():
    assert placement.chunk_size(10**9, 10**9, 2**20) == 1
    assert placement.chunk_size(20_000, 4000, 2**20) == 51


class Accelerator(NamedTuple):
    """A device with a memory."""

    bytes_limit: int
    platform: str = "tpu"

    def memory_stats(self):
        return {"bytes_limit": self.bytes_limit}


def test_an_accelerator_takes_as_many_clients_as_fit():
    model = models.build("mlp", input_shape=(8, 8), num_classes=10)
    numbers = 4 * size(jax.eval_shape(model.init, jax.random.key(0)))
    options = dataclasses.asdict(TrainConfig(model="mlp"))
    device = Accelerator(4 * (3 * numbers + 7 * 1000))
    taken = lambda device: 1000
    assert placement.clients_at_once(options, model, device, taken) == 7
    # Two runs at once have half of it each.
    double = Accelerator(2 * device.bytes_limit)
    assert placement.clients_at_once(options, model, double, taken, runs=2) == 7
    # Five copies of the model each where nobody says.
    device = Accelerator(4 * (3 + 5 * 7) * numbers)
    assert placement.clients_at_once(options, model, device) == 7

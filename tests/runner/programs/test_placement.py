"""The rule behind ``--cohort auto``."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from fedsparsify_jax import models
from fedsparsify_jax.client_map import device_mesh
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.programs import placement


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
    assert placement.chunk_size(10**9, 2**20) == 1
    assert placement.chunk_size(1000, 2**20) == 52

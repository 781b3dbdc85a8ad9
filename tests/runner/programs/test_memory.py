"""Batches longer than any client, and runs that cannot fit into memory."""

import dataclasses

import jax
import numpy as np
import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.programs import memory
from fedsparsify_jax.runner.programs.federation import assemble


def small(batch_size):
    return resolve(TrainConfig(num_clients=10, local_epochs=1, batch_size=batch_size))


def after_one_round(batch_size):
    federation = assemble(small(batch_size), jax.local_devices()[:1])
    key = jax.random.key(0)
    state = federation.algorithm.init(key, federation.model.init(key))
    state, _ = jax.jit(federation.algorithm.step)(key, state, federation.clients)
    return jax.tree.leaves(state.variables)


def test_a_batch_is_no_longer_than_the_longest_client():
    longest = after_one_round(144)
    for batch_size in (145, 2**31 - 1):
        for leaf, expected in zip(after_one_round(batch_size), longest, strict=True):
            assert np.array_equal(leaf, expected)


def test_what_cannot_fit_is_refused_before_compiling(monkeypatch):
    monkeypatch.setattr(memory, "memory_of", lambda device: 2**16)
    with pytest.raises(InputError, match=r"at least [\d.]+ GiB .*--batch-size is 32,"):
        assemble(small(32))


def test_residuals_of_all_clients_are_in_the_estimate(monkeypatch):
    config = resolve(TrainConfig(num_clients=100, upload_compression="topk"))
    one_device = jax.local_devices()[:1]
    # Of the data, 100 residuals of 26,122 numbers, and one client in training.
    monkeypatch.setattr(memory, "memory_of", lambda device: 100 * 4 * 26_122)
    with pytest.raises(InputError, match=r"their residuals 0.0 \(--error-feedback\)"):
        assemble(config, one_device)
    assemble(dataclasses.replace(config, error_feedback="off"), one_device)

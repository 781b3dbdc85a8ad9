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


def small(batch_size, **options):
    return resolve(
        TrainConfig(num_clients=10, local_epochs=1, batch_size=batch_size, **options)
    )


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


def test_uploads_that_are_measured_count(monkeypatch):
    # The 1,437 training images of digits, in clients of 144 rows, and the mlp's 26,122
    # numbers: weights, gradient and new weights of one client, and a batch.
    training = 10 * 144 * 64 + 4 * (3 * 26_122 + 32 * 64)
    uploads = 10 * 4 * 26_122
    for bytes_of_device, measured, fits in (
        (training, False, True),
        (training - 1, False, False),
        (training + uploads, True, True),
        (training + uploads - 1, True, False),
    ):
        monkeypatch.setattr(memory, "memory_of", lambda device, n=bytes_of_device: n)
        config = small(32, measure_bytes=measured)
        if fits:
            assemble(config, jax.local_devices()[:1])
            continue
        words = "--measure-bytes keeps" if measured else r"disk: none\)$"
        with pytest.raises(InputError, match=words):
            assemble(config, jax.local_devices()[:1])


def test_residuals_of_all_clients_are_in_the_estimate(monkeypatch):
    config = resolve(TrainConfig(num_clients=100, upload_compression="topk"))
    one_device = jax.local_devices()[:1]
    # Of the data, 100 residuals of 26,122 numbers, and one client in training.
    monkeypatch.setattr(memory, "memory_of", lambda device: 100 * 4 * 26_122)
    with pytest.raises(InputError, match=r"their residuals 0.0 \(--error-feedback\)"):
        assemble(config, one_device)
    assemble(dataclasses.replace(config, error_feedback="off"), one_device)

"""Client-stacked data, and the table of classes that clients hold."""

import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import Examples


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32])
def test_stack_pads_with_zeros_and_keeps_the_dtype(dtype):
    examples = Examples(
        (1 + np.arange(12)).reshape(6, 2).astype(dtype), np.arange(1, 7, dtype=np.int32)
    )
    parts = [np.array([5]), np.array([0, 2, 4]), np.array([3, 1])]
    clients = data.stack(examples, parts)
    assert clients.x.dtype == dtype and clients.x.shape == (3, 3, 2)
    assert clients.sizes.tolist() == [1, 3, 2]
    assert clients.y.tolist() == [[6, 0, 0], [1, 3, 5], [4, 2, 0]]
    for client, part in enumerate(parts):
        assert np.array_equal(clients.x[client, : len(part)], examples.x[part])
        assert not np.any(clients.x[client, len(part) :])


def test_stack_refuses_clients_without_examples():
    examples = Examples(np.ones((2, 1), np.float32), np.zeros(2, np.int32))
    with pytest.raises(InputError, match="client 1 has no examples"):
        data.stack(examples, [np.array([0, 1]), np.array([], int)])
    with pytest.raises(InputError, match="at least one client"):
        data.stack(examples, [])


def test_class_table_counts_and_totals():
    labels = np.array([0, 2, 2, 0, 1, 2])
    table = data.class_table(labels, [np.array([0, 1, 2]), np.array([3, 4, 5])])
    rows = [line.split() for line in table.splitlines()]
    assert rows == [
        ["client", "0", "1", "2", "total"],
        ["0", "1", "0", "2", "3"],
        ["1", "1", "1", "1", "3"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1  # columns line up


def test_class_table_counts_the_clients_it_leaves_out():
    labels = np.zeros(25, int)
    table = data.class_table(labels, data.iid(labels, 25), max_rows=20)
    lines = table.splitlines()
    assert len(lines) == 22 and lines[-1] == "... and 5 more clients"


@pytest.mark.parametrize("label", [3, -1])
def test_labels_outside_the_classes_are_refused(label):
    examples = Examples(np.ones((2, 1)), np.array([0, label]))
    with pytest.raises(InputError, match=f"label {label} of example 1: with 3 classes"):
        data.stack(examples, [np.array([0, 1])], num_classes=3)

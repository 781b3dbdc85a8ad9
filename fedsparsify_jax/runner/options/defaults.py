"""Settings of the paper on each data set (reference: its section on settings)."""

from typing import Any

from fedsparsify_jax.algorithms.registry import ALGORITHMS

USUAL: dict[str, Any] = {
    "model": "mlp",
    "num_clients": 10,
    "rounds": 50,
    "batch_size": 32,
    "learning_rate": 0.05,
    "momentum": 0.0,
    "nesterov": "off",
    "client_data": "memory",
    "prunable": "all",
    "initial_sparsity": 0.0,
}
"""Defaults where there is no paper to follow: digits and the user's data."""

BY_DATASET: dict[str, dict[str, Any]] = {
    "digits": {"learning_rate": 0.1},
    "fashion_mnist": {"rounds": 200, "learning_rate": 0.02},
    "cifar10": {
        "model": "cnn",
        "rounds": 200,
        "learning_rate": 0.005,
        "momentum": 0.75,
    },
    "cifar100": {
        "model": "vgg16_bn",
        "rounds": 100,
        "batch_size": 128,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "nesterov": "on",
    },
    "brain_age": {
        "model": "brain_age_cnn",
        "num_clients": 8,
        "rounds": 40,
        "batch_size": 1,
        "learning_rate": 5e-5,
    },
    "imdb": {"model": "lstm", "rounds": 200, "learning_rate": 0.01},
    "store": {"client_data": "disk"},
}
"""Defaults of a data set, as far as they are not the usual ones."""


def of(dataset: str, algorithm: str) -> dict[str, Any]:
    """Returns the defaults for a data set and an algorithm; the algorithm's win.

    >>> of("hf:owner/name", "fedsparsify-plus")["momentum"]
    0.9
    """
    return {**USUAL, **BY_DATASET.get(dataset, {}), **ALGORITHMS[algorithm].defaults}


def hint(field: str) -> str:
    """Returns ``default: 50; fashion_mnist 200, ...`` for the help.

    >>> hint("num_clients")
    'default: 10; brain_age 8'
    """
    rows = BY_DATASET | {name: row.defaults for name, row in ALGORITHMS.items()}
    others = [f"{name} {row[field]}" for name, row in rows.items() if field in row]
    return "; ".join([f"default: {USUAL[field]}", *filter(None, [", ".join(others)])])

"""What the paper uses on each data set (reference: its section on settings)."""

from typing import Any

# digits and the user's own data have no paper to follow.
_OWN: dict[str, Any] = {
    "model": "mlp",
    "num_clients": 10,
    "rounds": 50,
    "batch_size": 32,
    "learning_rate": 0.05,
    "momentum": 0.0,
    "nesterov": "off",
    "client_data": "memory",
}

BY_DATASET: dict[str, dict[str, Any]] = {
    "digits": _OWN | {"learning_rate": 0.1},
    "fashion_mnist": _OWN | {"rounds": 200, "learning_rate": 0.02},
    "cifar10": _OWN
    | {"model": "cnn", "rounds": 200, "learning_rate": 0.005, "momentum": 0.75},
    "cifar100": _OWN
    | {
        "model": "vgg16_bn",
        "rounds": 100,
        "batch_size": 128,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "nesterov": "on",
    },
    "brain_age": _OWN
    | {
        "model": "brain_age_cnn",
        "num_clients": 8,
        "rounds": 40,
        "batch_size": 1,
        "learning_rate": 5e-5,
    },
    "imdb": _OWN | {"model": "lstm", "rounds": 200, "learning_rate": 0.01},
    "npz": _OWN,
    "store": _OWN | {"client_data": "disk"},
    "hf": _OWN,
}

BY_ALGORITHM: dict[str, dict[str, Any]] = {"fedsparsify-plus": {"momentum": 0.9}}
"""What an algorithm of ours wants instead, whatever the data set."""


def of(dataset: str) -> dict[str, Any]:
    """The defaults for a data set; all ``hf:`` names share one row.

    >>> of("hf:owner/name")["rounds"]
    50
    """
    return BY_DATASET["hf" if dataset.startswith("hf:") else dataset]


def hint(field: str) -> str:
    """``(default: 50; fashion_mnist 200, ...)`` for the help text."""
    others = (
        f"{name} {row[field]}"
        for name, row in (BY_DATASET | BY_ALGORITHM).items()
        if row.get(field, _OWN[field]) != _OWN[field]
    )
    listed = ", ".join(others)
    return f"(default: {_OWN[field]}{'; ' if listed else ''}{listed})"

"""The draws of a round, handed over to the NumPy federation."""

import jax
import numpy as np

from fedsparsify_jax.engine import sampling
from fedsparsify_jax.training.local import epoch_keys, epoch_order


def batch_orders(round_key, cohort, counts, epochs=2):
    """Returns the order in which each client of the cohort visits its examples."""
    _, _, local_key, _ = jax.random.split(round_key, 4)
    orders = {}
    for client, client_key in zip(
        cohort, sampling.client_keys(local_key, cohort), strict=True
    ):
        train_key, _, _ = jax.random.split(client_key, 3)
        client, length = int(client), max(counts)
        orders[client] = [
            np.asarray(
                epoch_order(epoch_keys(train_key, epoch)[0], counts[client], length)
            )[: counts[client]]
            for epoch in range(epochs)
        ]
    return orders


def to_layers(variables):
    """Returns kernels and biases in float64, as the NumPy federation has them."""
    params = variables["params"]
    return [
        (np.float64(params[name]["kernel"]), np.float64(params[name]["bias"]))
        for name in sorted(params)
    ]

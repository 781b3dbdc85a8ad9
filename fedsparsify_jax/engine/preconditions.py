"""What a round asserts of the shapes it is given, when it is traced."""

import chex
import jax

from fedsparsify_jax.types import ClientData, State


def check_clients(clients: ClientData, state: State, num_clients: int | None) -> None:
    """Preconditions on shapes, at trace time."""
    chex.assert_rank(clients.count, 1)
    chex.assert_equal_shape_prefix([clients.x, clients.y, clients.count], 1)
    chex.assert_equal_shape_prefix([clients.x, clients.y], 2)
    total = clients.count.shape[0]
    if num_clients is not None and num_clients != total:
        raise ValueError(f"num_clients is {num_clients}, the data has {total} clients")
    if jax.tree.leaves(state.clients):
        chex.assert_tree_shape_prefix(state.clients, (total,))


def check_cohort(cohort: jax.Array, data: ClientData) -> None:
    """Preconditions on shapes, at trace time."""
    chex.assert_rank(cohort, 1)
    chex.assert_equal_shape_prefix([data.x, data.y], 2)
    chex.assert_tree_shape_prefix(data, cohort.shape)

"""Static sparse training: counts by layer, and a mask that stays."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import MLP, round_keys, run_rounds

from fedsparsify_jax import algorithms, masks, pruning

ENGINE = {"learning_rate": 0.3, "local_epochs": 1, "batch_size": 3}


def played(clients, **options):
    algorithm = algorithms.static(MLP.apply, final_sparsity=0.5, **ENGINE, **options)
    variables = MLP.init(jax.random.key(2))
    start = algorithm.init(jax.random.key(1), variables)
    states, _ = run_rounds(jax.jit(algorithm.step), start, clients, round_keys(3))
    return variables, states


@pytest.mark.parametrize("allocation", ["erk", "layer"])
@pytest.mark.parametrize("first", ["random", "magnitude"])
def test_every_layer_keeps_its_budget_from_the_first_round_to_the_last(
    allocation, first, clients
):
    variables, states = played(clients, allocation=allocation, first_masks=first)
    counts = pruning.leaf_counts(variables, 0.5, scope=allocation)
    for state in states[1:]:
        chex.assert_trees_all_equal(state.masks, states[1].masks)
        kept = jax.tree.map(lambda mask: int(mask.sum()), state.masks)
        assert kept == jax.tree.map(int, counts)
        chex.assert_trees_all_equal(
            masks.apply(state.masks, state.variables), state.variables
        )
    kernel = variables["params"]["Dense_0"]["kernel"]
    size = np.abs(np.asarray(kernel))
    mask = states[-1].masks["params"]["Dense_0"]["kernel"]
    largest = size[mask].min() > size[~mask].max()
    assert largest == (first == "magnitude")


def test_what_is_kept_trains_on_and_the_masks_are_a_draw(clients):
    _, states = played(clients)
    moved = jax.tree.map(
        lambda a, b: jnp.any(a != b), *[s.variables for s in states[1:3]]
    )
    assert all(jax.tree.leaves(moved))
    _, others = run_of_another_key(clients)
    different = jax.tree.map(
        lambda a, b: (a != b).any(), states[-1].masks, others.masks
    )
    assert any(jax.tree.leaves(different))


def run_of_another_key(clients):
    algorithm = algorithms.static(MLP.apply, final_sparsity=0.5, **ENGINE)
    start = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    state, info = jax.jit(algorithm.step)(jax.random.key(9), start, clients)
    return info, state


def test_unknown_first_masks_are_refused():
    with pytest.raises(ValueError, match="unknown first_masks 'ones': 'magnitude' or"):
        algorithms.static(MLP.apply, first_masks="ones")

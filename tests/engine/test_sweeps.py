"""Cells side by side: the numbers of single runs, and branches that stay branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import algorithms, client_map, models
from fedsparsify_jax.engine import sweeps

MODEL = models.build("mlp", input_shape=(5,), num_classes=3)
RATES = (0.05, 0.1, 0.2)


def build(rate, sparsity=0.5):
    return algorithms.snip(
        MODEL.apply,
        learning_rate=rate,
        final_sparsity=sparsity,
        local_epochs=1,
        batch_size=4,
    )


def one_round(state, clients, cell):
    return build(cell["rate"]).step(cell["key"], state, clients)


def first_state(number):
    return build(0.1).init(
        jax.random.key(number), MODEL.init(jax.random.key(10 + number))
    )


def grid(t):
    keys = jax.random.split(jax.random.key(t), 3)
    return {"rate": jnp.array(RATES), "key": keys}


def mesh():
    return client_map.device_mesh(jax.devices()[:2])


WAYS = {
    "vmap": client_map.vmapped,
    "map": lambda: client_map.chunked(1),
    "shard": lambda: client_map.sharded(mesh(), client_map.chunked(1)),
}


@pytest.mark.parametrize("way", WAYS)
def test_cells_are_single_runs(way, clients):
    """Three cells on two devices: sharding has to fill up."""
    step = jax.jit(sweeps.over_trials(one_round, WAYS[way]()))
    states = sweeps.stack_states([first_state(number) for number in range(3)])
    for t in (1, 2):
        states, info = step(states, clients, grid(t))
    assert states.round.shape == () and int(states.round) == 2

    alone, single = first_state(2), jax.jit(build(RATES[2]).step)
    for t in (1, 2):
        alone, expected = single(grid(t)["key"][2], alone, clients)
    last = sweeps.trial_state(states, 2)
    assert jax.tree.structure(last) == jax.tree.structure(alone)
    for found, wanted in zip(
        jax.tree.leaves(last), jax.tree.leaves(alone), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(info.loss[2], expected.loss, atol=1e-5)
    assert len(set(np.asarray(info.loss).tolist())) == 3


def test_the_round_keeps_its_branches(clients):
    """SNIP looks for its masks in round 1 alone; a plain vmap would in every round."""
    states = sweeps.stack_states([first_state(number) for number in range(3)])
    ours = jax.make_jaxpr(sweeps.over_trials(one_round))(states, clients, grid(1))
    assert "cond[" in str(ours)
    everything = states._replace(round=jnp.zeros(3, jnp.int32))
    plain = jax.vmap(one_round, in_axes=(0, None, 0))
    assert "cond[" not in str(jax.make_jaxpr(plain)(everything, clients, grid(1)))


def test_states_of_different_rounds_are_refused():
    state = first_state(0)
    with pytest.raises(ValueError, match=r"same rounds: got \[0, 1\]"):
        sweeps.stack_states([state, state._replace(round=jnp.int32(1))])
    with pytest.raises(ValueError, match=r"same rounds: got \[\]"):
        sweeps.stack_states([])

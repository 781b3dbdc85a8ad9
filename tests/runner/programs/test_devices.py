"""Which devices a run gets, and where its arrays lie."""

import jax
import jax.numpy as jnp
import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.programs import devices
from fedsparsify_jax.types import ClientsState, State


def test_all_local_devices_by_default():
    assert devices.select(None) == jax.local_devices()
    assert devices.select(1) == jax.local_devices()[:1]
    assert devices.cores() >= 1


def test_more_devices_than_there_are_is_one_clear_line():
    # JAX has been used by now, so no more can be made.
    with pytest.raises(InputError, match="--devices is 64: this process has 2"):
        devices.select(64)


@pytest.mark.parametrize(
    ("clients", "participation", "divided"),
    [((3, 2, 1, 2), 1.0, True), ((3, 2, 1), 1.0, False), ((3, 2, 1, 2), 0.5, False)],
)
def test_clients_are_divided_where_that_goes_up(make, clients, participation, divided):
    data = make(clients)
    place = devices.place(data, participation, jax.devices()[:2])
    assert place.divided is divided
    placed = place.put_clients(data)
    rows = {shard.data.shape[0] for shard in placed.x.addressable_shards}
    assert rows == {len(clients) // 2 if divided else len(clients)}

    state = State(
        {"params": {"w": jnp.ones(3)}},
        {"params": {"w": jnp.ones(3, bool)}},
        jnp.int32(0),
        ClientsState(extra=jnp.zeros((len(clients), 2))),
    )
    put = place.put_state(state)
    assert put.variables["params"]["w"].sharding == place.everywhere
    assert put.clients.extra.sharding == place.by_client

"""Devices of a run, and the places of its arrays on them.

On CPU every core becomes a JAX device, because XLA runs a client's small matrix
products on one core; on accelerators all local devices are used. The client axis is
divided over them, everything else is repeated on each.
"""

import contextlib
import itertools
import operator
import os
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fedsparsify_jax import trees
from fedsparsify_jax.client_map import AXIS, device_mesh
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import ClientData, ClientsState, State


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def select(number: int | None) -> list[Any]:
    """Selects the devices of a run.

    On CPU, this must come before anything else uses JAX: it has no effect once JAX is
    initialised.

    Args:
      number: of devices of each process; None for one a core on CPU and all of them
        elsewhere.

    Returns:
      The devices of all processes, by process.

    Raises:
      InputError: if there are fewer.
    """
    named_by_user = "device_count" in os.environ.get("XLA_FLAGS", "")
    if number is not None or not named_by_user:
        # Refused where JAX was used before, by the caller or in a notebook.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", number or cores())
    local = jax.local_devices()
    if number is not None and number > len(local):
        raise InputError(
            f"--devices is {number}: this process has {len(local)} "
            f"({local[0].platform})"
        )
    process_of = operator.attrgetter("process_index")
    by_process = itertools.groupby(sorted(jax.devices(), key=process_of), process_of)
    return [device for _, group in by_process for device in list(group)[:number]]


class Placement(NamedTuple):
    """The places of a run's arrays.

    Attributes:
      mesh: one axis, ``clients``, over the run's devices.
      divided: whether clients' data and state are divided over the devices; if not,
        every device holds all of them.
    """

    mesh: Mesh
    divided: bool

    @property
    def everywhere(self) -> NamedSharding:
        """Returns the sharding of what every device holds."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def by_client(self) -> NamedSharding:
        """Returns the sharding of clients' data: divided, where that is possible."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS if self.divided else None))

    def of_state(self, state: State) -> State:
        """Returns the sharding of every leaf of a state."""
        repeated: State = jax.tree.map(lambda _: self.everywhere, state)
        clients: ClientsState = jax.tree.map(lambda _: self.by_client, state.clients)
        return repeated._replace(clients=clients)

    def put_state(self, state: State) -> State:
        """Puts a state on the devices."""
        return jax.device_put(state, self.of_state(state))

    def put_clients(self, clients: ClientData) -> ClientData:
        """Puts the clients' data on the devices."""
        if self.by_client.is_fully_addressable:
            return jax.device_put(clients, self.by_client)

        # Each process hands over what its devices hold; nothing is compared or sent.
        def put(leaf: jax.Array) -> jax.Array:
            array = np.asarray(leaf)
            return jax.make_array_from_callback(
                array.shape, self.by_client, lambda index: array[index]
            )

        return jax.tree.map(put, clients)

    def repeat(self, tree: Any) -> Any:
        """Puts anything else on every device."""
        # Keys cannot be put on other processes' devices, the numbers in them can.
        numbers, with_keys = trees.hide_keys(tree)
        return with_keys(
            [jax.device_put(np.asarray(leaf), self.everywhere) for leaf in numbers]
        )


def place(clients: ClientData, participation: float, devices: list[Any]) -> Placement:
    """Decides on the places of a run's arrays.

    Clients are divided for good where all take part and their number divides evenly:
    then no example ever moves. Otherwise every device holds all of them and picks its
    share of a cohort itself.
    """
    mesh = device_mesh(devices)
    even = trees.leading_size(clients) % mesh.size == 0
    return Placement(mesh, divided=even and participation == 1.0)

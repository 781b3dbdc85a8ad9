"""Which devices a run uses, and where its arrays lie on them.

On CPU every core becomes a JAX device, because XLA runs a client's small matrix
products on one core; on accelerators all local devices are used. The client axis is
divided over them, everything else is repeated on each.
"""

import contextlib
import itertools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fedsparsify_jax import trees
from fedsparsify_jax.client_map import AXIS, device_mesh
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import ClientData, ClientsState, State


def cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def select(wanted: int | None) -> list[Any]:
    """The devices of a run.

    Must come before anything else touches JAX to have its effect on CPU: afterwards
    there are the devices that there are.

    Args:
      wanted: how many of each process; None for one a core on CPU and all of them
        elsewhere.

    Returns:
      The devices of all processes, by process.

    Raises:
      InputError: if there are fewer than wanted.
    """
    named_by_user = "device_count" in os.environ.get("XLA_FLAGS", "")
    if wanted is not None or not named_by_user:
        # Refused where JAX was used before, by the caller or in a notebook.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", wanted or cores())
    mine = jax.local_devices()
    if wanted is not None and wanted > len(mine):
        raise InputError(
            f"--devices is {wanted}: this process has {len(mine)} ({mine[0].platform})"
        )
    everyones = sorted(jax.devices(), key=lambda device: device.process_index)
    groups = itertools.groupby(everyones, key=lambda device: device.process_index)
    return [device for _, group in groups for device in list(group)[:wanted]]


class Placement(NamedTuple):
    """Where the arrays of a run lie.

    Attributes:
      mesh: one axis, ``clients``, over the run's devices.
      divided: whether clients' data and state are divided over the devices; if not,
        every device holds all of them.
    """

    mesh: Mesh
    divided: bool

    @property
    def everywhere(self) -> NamedSharding:
        """Repeated on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def by_client(self) -> NamedSharding:
        """The leading client axis divided over the devices, where that is possible."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS if self.divided else None))

    def of_state(self, state: State) -> State:
        """The sharding of every leaf of a state."""
        kept: ClientsState = jax.tree.map(lambda _: self.by_client, state.clients)
        repeated: State = jax.tree.map(lambda _: self.everywhere, state)
        return repeated._replace(clients=kept)

    def put_state(self, state: State) -> State:
        """A state where this run wants it."""
        return jax.device_put(state, self.of_state(state))

    def put_clients(self, clients: ClientData) -> ClientData:
        """The clients' data where this run wants it."""
        return jax.tree.map(self._put_own, clients)

    def _put_own(self, leaf: jax.Array) -> jax.Array:
        if self.by_client.is_fully_addressable:
            return jax.device_put(leaf, self.by_client)
        # Each process hands over what its devices hold; nothing is compared or sent.
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(
            whole.shape, self.by_client, lambda index: whole[index]
        )

    def repeat(self, tree: Any) -> Any:
        """Anything else: on every device."""
        return jax.tree.map(self._repeated, tree)

    def _repeated(self, leaf: Any) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.device_put(leaf, self.everywhere)
        # Keys cannot be put on other processes' devices, the numbers in them can.
        bits = np.asarray(jax.random.key_data(leaf))
        impl = jax.random.key_impl(leaf)
        bits = jax.device_put(bits, self.everywhere)
        return jax.random.wrap_key_data(bits, impl=impl)


def place(clients: ClientData, participation: float, devices: list[Any]) -> Placement:
    """Decides where the arrays of a run lie.

    Clients are divided for good where everybody takes part and the numbers go up:
    then no example ever moves. Otherwise every device holds all of them and picks its
    share of a cohort itself.
    """
    mesh = device_mesh(devices)
    everyone = participation == 1.0
    return Placement(mesh, everyone and trees.leading_size(clients) % mesh.size == 0)

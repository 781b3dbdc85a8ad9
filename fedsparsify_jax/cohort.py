"""The same work for every client of a cohort, three ways behind one signature.

A `CohortMap` takes ``(fn, shared, stacked)`` and returns ``fn(shared, client)`` for
every entry of the leading axis of ``stacked``, stacked again. All agree up to the
rounding of floating-point sums and compose: shard over devices, chunk within a device,
vmap within a chunk.

    sharded(mesh, inner=chunked(8))

Which one is fastest depends on the model and the machine: ``vmap`` for MLPs; one client
at a time, ``chunked(1)``, for convolutions on a GPU and whenever memory is short.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from fedsparsify_jax import trees
from fedsparsify_jax.types import PyTree

ClientFn = Callable[[PyTree, PyTree], PyTree]

AXIS = "clients"
"""Name of the mesh axis that clients are sharded over."""


class CohortMap(Protocol):
    """Runs ``fn(shared, client)`` for every client: ``[K, ...]`` in, ``[K, ...]`` out.

    Args of a call:
      fn: one client's work.
      shared: the same for everybody (the global model).
      stacked: one entry a client along the leading axis of every leaf.
    """

    def __call__(self, fn: ClientFn, shared: PyTree, stacked: PyTree) -> Any: ...


def vmapped() -> CohortMap:
    """All clients at once: their matrix products become batched ones.

    >>> vmapped()(lambda shared, x: shared * x, 2, jnp.array([1, 2]))
    Array([2, 4], dtype=int32)
    """

    def run(fn: ClientFn, shared: PyTree, stacked: PyTree) -> Any:
        return jax.vmap(fn, in_axes=(None, 0))(shared, stacked)

    return run


def chunked(size: int) -> CohortMap:
    """Chunks of ``size`` clients one after another, vmap within: bounds memory.

    >>> chunked(2)(lambda shared, x: shared * x, 2, jnp.arange(3))
    Array([0, 2, 4], dtype=int32)
    """
    if size < 1:
        raise ValueError(f"a chunk of {size} clients: the size must be at least 1")

    def run(fn: ClientFn, shared: PyTree, stacked: PyTree) -> Any:
        batch = size if size > 1 else None
        return jax.lax.map(lambda one: fn(shared, one), stacked, batch_size=batch)

    return run


def sharded(mesh: Mesh, inner: CohortMap | None = None) -> CohortMap:
    """Clients divided over the ``clients`` axis of a mesh, ``inner`` on each device.

    Cohorts that do not divide evenly are filled up with copies of the last client,
    whose results are dropped.

    Args:
      mesh: a mesh whose axis named ``"clients"`` the cohort is divided over.
      inner: how a device runs its share; `vmapped` by default.
    """
    if AXIS not in mesh.shape:
        raise ValueError(
            f"the mesh needs an axis named {AXIS!r}: has {mesh.axis_names}"
        )
    inner = vmapped() if inner is None else inner
    shares = mesh.shape[AXIS]

    def run(fn: ClientFn, shared: PyTree, stacked: PyTree) -> Any:
        size = trees.leading_size(stacked)
        padded = -(-size // shares) * shares
        if padded > size:
            index = jnp.minimum(jnp.arange(padded), size - 1)
            stacked = trees.take(stacked, index)
        spread = jax.shard_map(
            lambda same, mine: inner(fn, same, mine),
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        )
        result = spread(shared, stacked)
        if padded > size:
            result = jax.tree.map(lambda leaf: leaf[:size], result)
        return result

    return run


def device_mesh(devices: list[Any] | None = None) -> Mesh:
    """A mesh of one axis, ``clients``, over the given (default: all local) devices."""
    chosen = jax.local_devices() if devices is None else devices
    return jax.make_mesh(
        (len(chosen),), (AXIS,), (jax.sharding.AxisType.Auto,), devices=chosen
    )

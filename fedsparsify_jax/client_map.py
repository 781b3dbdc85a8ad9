"""The same work for every client of a cohort, three ways behind one signature.

A `ClientMap` calls ``fn(shared, client)`` for every entry of the leading axis of
``stacked``. All agree up to the rounding of floating-point sums, and they compose:
shard over devices, chunk within a device, vmap within a chunk.

    sharded(mesh, inner=chunked(8))

What is only needed in sums over the cohort, such as the models for their mean, is added
up on the way (`SumFn`), so that memory does not grow with the cohort.

Which one is fastest depends on the model and the machine: one client at a time on each
device, ``chunked(1)``, on CPUs, for convolutions on a GPU, and if memory is short;
``vmap`` for small dense networks on accelerators.
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


SumFn = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[PyTree, PyTree]]
"""``(shared, stacked, results, present) -> (sums, kept)`` of a part of the cohort.

``stacked`` and ``results`` are the arguments and results of `ClientFn` for the part's
clients, ``[k, ...]``; ``present`` is bool ``[k]``, False for padding, which must add
nothing. ``sums`` is added up over the parts, ``kept`` is stacked.
"""


def no_sums(
    shared: PyTree, stacked: PyTree, results: PyTree, present: jax.Array
) -> tuple[PyTree, PyTree]:
    """Sums nothing and keeps all results."""
    return (), results


class ClientMap(Protocol):
    """Runs ``fn(shared, client)`` for every client: ``[K, ...]`` in, ``[K, ...]`` out.

    Args of a call:
      fn: one client's work.
      shared: the same for all clients (the global model).
      stacked: one entry a client along the leading axis of every leaf.
      summed: what is added up and what is kept of the results; keeps all of them by
        default. No more results are held at a time than the strategy runs at once.

    Returns of a call:
      ``(sums, kept)``: the sums over the whole cohort, and what is kept of every
      client, stacked.
    """

    def __call__(
        self,
        fn: ClientFn,
        shared: PyTree,
        stacked: PyTree,
        summed: SumFn = no_sums,
    ) -> tuple[PyTree, Any]: ...


def vmapped() -> ClientMap:
    """Runs all clients at once: their matrix products become batched ones.

    >>> vmapped()(lambda shared, x: shared * x, 2, jnp.array([1, 2]))
    ((), Array([2, 4], dtype=int32))
    """

    def run(
        fn: ClientFn, shared: PyTree, stacked: PyTree, summed: SumFn = no_sums
    ) -> tuple[PyTree, Any]:
        results = jax.vmap(fn, in_axes=(None, 0))(shared, stacked)
        present = jnp.ones(trees.leading_size(stacked), bool)
        return summed(shared, stacked, results, present)

    return run


def _single(
    fn: ClientFn, shared: PyTree, stacked: PyTree, summed: SumFn = no_sums
) -> tuple[PyTree, Any]:
    """Runs a single client, without the vmap that would batch its kernels."""
    client = jax.tree.map(lambda leaf: leaf[0], stacked)
    results = jax.tree.map(lambda leaf: leaf[None], fn(shared, client))
    return summed(shared, stacked, results, jnp.ones(1, bool))


def chunked(size: int, inner: ClientMap | None = None) -> ClientMap:
    """Runs chunks of ``size`` clients one after another: bounds memory.

    Args:
      size: clients in a chunk.
      inner: how a chunk is run; by default `vmapped`, and a single client as it is.

    >>> chunked(2)(lambda shared, x: shared * x, 2, jnp.arange(3))
    ((), Array([0, 2, 4], dtype=int32))

    With sums, here of the results, keeping the clients as they were:

    >>> def summed(shared, stacked, results, present):
    ...     return jnp.sum(results), stacked
    >>> chunked(2)(lambda shared, x: shared * x, 2, jnp.arange(3), summed)
    (Array(6, dtype=int32), Array([0, 1, 2], dtype=int32))
    """
    if size < 1:
        raise ValueError(f"a chunk of {size} clients: the size must be at least 1")
    at_once = inner or (vmapped() if size > 1 else _single)

    def run(
        fn: ClientFn, shared: PyTree, stacked: PyTree, summed: SumFn = no_sums
    ) -> tuple[PyTree, Any]:
        number = trees.leading_size(stacked)
        if number <= size:
            return at_once(fn, shared, stacked, summed)
        numbers, with_keys = trees.hide_keys(stacked)

        def work(chunk: PyTree) -> tuple[PyTree, PyTree]:
            return at_once(fn, shared, with_keys(chunk), summed)

        return _scan_chunks(work, numbers, number, size)

    return run


def _scan_chunks(
    work: Callable[[PyTree], tuple[PyTree, PyTree]],
    stacked: PyTree,
    number: int,
    size: int,
) -> tuple[PyTree, PyTree]:
    """Scans ``work`` over chunks; adds the sums, concatenates what is kept."""
    full = number // size * size

    def one(sums: PyTree, chunk: PyTree) -> tuple[PyTree, PyTree]:
        added, kept = work(chunk)
        return jax.tree.map(jnp.add, sums, added), kept

    chunks = jax.tree.map(
        lambda leaf: leaf[:full].reshape(full // size, size, *leaf.shape[1:]), stacked
    )
    first = jax.tree.map(lambda leaf: leaf[:size], stacked)
    shapes, _ = jax.eval_shape(work, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    sums, kept = jax.lax.scan(one, zeros, chunks)
    kept = jax.tree.map(lambda leaf: leaf.reshape(full, *leaf.shape[2:]), kept)
    if full < number:
        sums, last = one(sums, jax.tree.map(lambda leaf: leaf[full:], stacked))
        kept = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), kept, last)
    return sums, kept


def sharded(mesh: Mesh, inner: ClientMap | None = None) -> ClientMap:
    """Divides clients over the ``clients`` axis of a mesh, ``inner`` on each device.

    Cohorts that do not divide evenly are filled up with copies of the last client,
    whose results are dropped. Sums are added over the devices by one collective.

    Args:
      mesh: a mesh whose axis named ``"clients"`` the cohort is divided over.
      inner: how a device runs its part; `vmapped` by default.
    """
    if AXIS not in mesh.shape:
        raise ValueError(
            f"the mesh needs an axis named {AXIS!r}: has {mesh.axis_names}"
        )
    on_device = vmapped() if inner is None else inner
    devices = mesh.shape[AXIS]
    by_client = PartitionSpec(AXIS)

    def run(
        fn: ClientFn, shared: PyTree, stacked: PyTree, summed: SumFn = no_sums
    ) -> tuple[PyTree, Any]:
        size = trees.leading_size(stacked)
        padded = -(-size // devices) * devices
        index = jnp.arange(padded)
        if padded > size:
            stacked = trees.take(stacked, jnp.minimum(index, size - 1))

        def work(same: PyTree, part: tuple[PyTree, jax.Array]) -> tuple[PyTree, Any]:
            sums, kept = on_device(
                lambda same, client: fn(same, client[0]),
                same,
                part,
                lambda same, part, results, present: summed(
                    same, part[0], results, present & part[1]
                ),
            )
            return jax.lax.psum(sums, AXIS), kept

        sums, kept = jax.shard_map(
            work,
            mesh=mesh,
            in_specs=(PartitionSpec(), by_client),
            out_specs=(PartitionSpec(), by_client),
            check_vma=False,
        )(shared, (stacked, index < size))
        if padded > size:
            kept = jax.tree.map(lambda leaf: leaf[:size], kept)
        return sums, kept

    return run


def device_mesh(devices: list[Any] | None = None) -> Mesh:
    """Returns a mesh of one axis, ``clients``, over devices (default: all local)."""
    chosen = jax.local_devices() if devices is None else devices
    return jax.make_mesh(
        (len(chosen),), (AXIS,), (jax.sharding.AxisType.Auto,), devices=chosen
    )

"""The same work for every client of a cohort, three ways behind one signature.

A `CohortMap` takes ``(fn, shared, stacked)`` and returns ``fn(shared, client)`` for
every entry of the leading axis of ``stacked``, stacked again. All agree up to the
rounding of floating-point sums and compose: shard over devices, chunk within a device,
vmap within a chunk.

    sharded(mesh, inner=chunked(8))

What is only needed in sums over the cohort, such as the models for their mean, can be
added up on the way (`SumFn`), so that memory does not grow with the cohort.

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

``stacked`` and ``results`` are what `ClientFn` was given and gave for the part's
clients, ``[k, ...]``; ``present`` is bool ``[k]``, False for padding, which must add
nothing. ``sums`` is added up over the parts, ``kept`` is stacked.
"""


class CohortMap(Protocol):
    """Runs ``fn(shared, client)`` for every client: ``[K, ...]`` in, ``[K, ...]`` out.

    Args of a call:
      fn: one client's work.
      shared: the same for everybody (the global model).
      stacked: one entry a client along the leading axis of every leaf.
      summed: if given, the call returns ``(sums, kept)``: its sums over the whole
        cohort, and stacked what it keeps of every client. Then no more results are
        held at a time than the strategy runs at once.
    """

    def __call__(
        self, fn: ClientFn, shared: PyTree, stacked: PyTree, summed: SumFn | None = None
    ) -> Any: ...


def vmapped() -> CohortMap:
    """All clients at once: their matrix products become batched ones.

    >>> vmapped()(lambda shared, x: shared * x, 2, jnp.array([1, 2]))
    Array([2, 4], dtype=int32)
    """

    def run(
        fn: ClientFn, shared: PyTree, stacked: PyTree, summed: SumFn | None = None
    ) -> Any:
        results = jax.vmap(fn, in_axes=(None, 0))(shared, stacked)
        if summed is None:
            return results
        everybody = jnp.ones(trees.leading_size(stacked), bool)
        return summed(shared, stacked, results, everybody)

    return run


def chunked(size: int, inner: CohortMap | None = None) -> CohortMap:
    """Chunks of ``size`` clients one after another: bounds memory.

    Args:
      size: clients in a chunk.
      inner: how a chunk is run; by default `vmapped`, and a single client as it is.

    >>> chunked(2)(lambda shared, x: shared * x, 2, jnp.arange(3))
    Array([0, 2, 4], dtype=int32)

    With sums, here of the results, keeping the clients as they were:

    >>> def summed(shared, stacked, results, present):
    ...     return jnp.sum(results), stacked
    >>> chunked(2)(lambda shared, x: shared * x, 2, jnp.arange(3), summed)
    (Array(6, dtype=int32), Array([0, 1, 2], dtype=int32))
    """
    if size < 1:
        raise ValueError(f"a chunk of {size} clients: the size must be at least 1")
    at_once = inner or (vmapped() if size > 1 else _alone)

    def run(
        fn: ClientFn, shared: PyTree, stacked: PyTree, summed: SumFn | None = None
    ) -> Any:
        number = trees.leading_size(stacked)
        if number <= size:
            return at_once(fn, shared, stacked, summed)

        plain, keyed = _without_keys(stacked)

        def work(part: PyTree) -> tuple[PyTree, PyTree]:
            part = keyed(part)
            if summed is None:
                return (), at_once(fn, shared, part)
            added: tuple[PyTree, PyTree] = at_once(fn, shared, part, summed)
            return added

        sums, kept = _added_up(work, plain, number, size)
        return kept if summed is None else (sums, kept)

    return run


def _alone(
    fn: ClientFn, shared: PyTree, stacked: PyTree, summed: SumFn | None = None
) -> Any:
    """A single client, without the vmap that would batch its kernels."""
    one = jax.tree.map(lambda leaf: leaf[0], stacked)
    results = jax.tree.map(lambda leaf: leaf[None], fn(shared, one))
    if summed is None:
        return results
    return summed(shared, stacked, results, jnp.ones(1, bool))


def _without_keys(tree: PyTree) -> tuple[list[jax.Array], Callable[[Any], PyTree]]:
    """The leaves, keys as plain numbers, and what makes the tree of such leaves again.

    JAX's checker takes keys that are sliced and looped over for keys used twice.
    """
    leaves, structure = jax.tree.flatten(tree)
    impls = [
        jax.random.key_impl(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else None
        for leaf in leaves
    ]
    plain = [
        leaf if impl is None else jax.random.key_data(leaf)
        for leaf, impl in zip(leaves, impls, strict=True)
    ]

    def again(plain: list[jax.Array]) -> PyTree:
        wrapped = [
            leaf if impl is None else jax.random.wrap_key_data(leaf, impl=impl)
            for leaf, impl in zip(plain, impls, strict=True)
        ]
        return jax.tree.unflatten(structure, wrapped)

    return plain, again


def _added_up(
    work: Callable[[PyTree], tuple[PyTree, PyTree]],
    stacked: PyTree,
    number: int,
    size: int,
) -> tuple[PyTree, PyTree]:
    """``work`` on chunk after chunk: its sums added, the rest put back in a row."""
    full = number // size

    def fold(leaf: jax.Array) -> jax.Array:
        return leaf[: full * size].reshape(full, size, *leaf.shape[1:])

    def one(sums: PyTree, part: PyTree) -> tuple[PyTree, PyTree]:
        added, kept = work(part)
        return jax.tree.map(jnp.add, sums, added), kept

    folded = jax.tree.map(fold, stacked)
    part = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), stacked
    )
    shapes, _ = jax.eval_shape(work, part)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    sums, kept = jax.lax.scan(one, zeros, folded)
    kept = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept)
    if full * size < number:
        rest = jax.tree.map(lambda leaf: leaf[full * size :], stacked)
        sums, last = one(sums, rest)
        kept = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), kept, last)
    return sums, kept


def sharded(mesh: Mesh, inner: CohortMap | None = None) -> CohortMap:
    """Clients divided over the ``clients`` axis of a mesh, ``inner`` on each device.

    Cohorts that do not divide evenly are filled up with copies of the last client,
    whose results are dropped. Sums are added over the devices by one collective.

    Args:
      mesh: a mesh whose axis named ``"clients"`` the cohort is divided over.
      inner: how a device runs its share; `vmapped` by default.
    """
    if AXIS not in mesh.shape:
        raise ValueError(
            f"the mesh needs an axis named {AXIS!r}: has {mesh.axis_names}"
        )
    on_device = vmapped() if inner is None else inner
    shares = mesh.shape[AXIS]
    mine = PartitionSpec(AXIS)

    def run(
        fn: ClientFn, shared: PyTree, stacked: PyTree, summed: SumFn | None = None
    ) -> Any:
        size = trees.leading_size(stacked)
        padded = -(-size // shares) * shares
        index = jnp.arange(padded)
        if padded > size:
            stacked = trees.take(stacked, jnp.minimum(index, size - 1))

        def share(same: PyTree, part: tuple[PyTree, jax.Array]) -> Any:
            if summed is None:
                return on_device(lambda same, one: fn(same, one[0]), same, part)

            def add(same: PyTree, part: Any, results: PyTree, present: Any) -> Any:
                return summed(same, part[0], results, present & part[1])

            alone = on_device(lambda same, one: fn(same, one[0]), same, part, add)
            return jax.lax.psum(alone[0], AXIS), alone[1]

        result = jax.shard_map(
            share,
            mesh=mesh,
            in_specs=(PartitionSpec(), mine),
            out_specs=mine if summed is None else (PartitionSpec(), mine),
            check_vma=False,
        )(shared, (stacked, index < size))
        if padded == size:
            return result
        sums, kept = (None, result) if summed is None else result
        kept = jax.tree.map(lambda leaf: leaf[:size], kept)
        return kept if summed is None else (sums, kept)

    return run


def device_mesh(devices: list[Any] | None = None) -> Mesh:
    """A mesh of one axis, ``clients``, over the given (default: all local) devices."""
    chosen = jax.local_devices() if devices is None else devices
    return jax.make_mesh(
        (len(chosen),), (AXIS,), (jax.sharding.AxisType.Auto,), devices=chosen
    )

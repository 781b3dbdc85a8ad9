"""How cells, and the clients of each, share the hardware in a sweep."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedsparsify_jax import cohort
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.strategy import clients_at_once
from fedsparsify_jax.sampling import cohort_size
from fedsparsify_jax.types import PyTree


def over_devices(
    devices: list[Any], inner: cohort.CohortMap | None
) -> cohort.CohortMap:
    """How cells share the hardware.

    Args:
      devices: to divide the cells over.
      inner: how one device runs its cells. By default one after another on CPU, where
        the clients of one cell fill the caches, and all at once elsewhere.
    """
    if inner is None:
        on_cpu = devices[0].platform == "cpu"
        inner = cohort.chunked(1) if on_cpu else cohort.vmapped()
    if len(devices) == 1:
        return inner
    return cohort.sharded(cohort.device_mesh(devices), inner)


def clients_together(
    options: Mapping[str, Any], model: Model, devices: list[Any]
) -> cohort.CohortMap:
    """How one device runs the clients of a round, all of them.

    Where nothing else is asked for, a CPU core trains them one by one, in parts of as
    many as `train` has on a device when it divides them: sums over the cohort are then
    added in the same order.

    Args:
      options: all options of a cell, resolved.
      model: what is trained.
      devices: of the sweep.
    """
    at_once = clients_at_once(options, model, devices)
    if at_once is None:
        return cohort.vmapped()
    if options["cohort"] == "auto" and devices[0].platform == "cpu":
        clients = cohort_size(options["num_clients"], options["participation"])
        share = -(-clients // len(devices))
        if 1 < share <= at_once and clients % share == 0:
            return _in_parts(share)
    return cohort.chunked(at_once)


def _in_parts(size: int) -> cohort.CohortMap:
    """Parts of ``size`` clients, which are trained one by one and added up at once."""
    one_part = cohort.chunked(1)

    def run(
        fn: cohort.ClientFn,
        shared: PyTree,
        stacked: PyTree,
        summed: cohort.SumFn | None = None,
    ) -> Any:
        if summed is None:
            return one_part(fn, shared, stacked)

        def train(shared: PyTree, part: PyTree) -> Any:
            return jax.lax.map(lambda client: fn(shared, client), part)

        def add(shared: PyTree, part: PyTree, results: PyTree, present: Any) -> Any:
            part, results = jax.tree.map(lambda leaf: leaf[0], (part, results))
            everybody = jnp.broadcast_to(present, (size,))
            sums, kept = summed(shared, part, results, everybody)
            return sums, jax.tree.map(lambda leaf: leaf[None], kept)

        parts = jax.tree.map(
            lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), stacked
        )
        sums, kept = one_part(train, shared, parts, add)
        return sums, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept)

    return run

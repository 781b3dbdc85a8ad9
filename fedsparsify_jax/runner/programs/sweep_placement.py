"""How cells, and the clients of each, share the hardware in a sweep."""

from collections.abc import Mapping
from typing import Any

from fedsparsify_jax import client_map
from fedsparsify_jax.engine.sampling import cohort_size
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.programs.placement import clients_at_once

_SHARING = 1.23
"""What a round costs more where devices share clients: every one of them purges and
evaluates, and they wait for each other. Three seeds on two cores take 0.924 of the time
of whole cells, which do 4/3 of the work (benchmarks/README.md, `sweep_shares.py`)."""


def _filled(number: int, devices: int) -> float:
    """How much more than it must be is done when ``number`` things fill up devices.

    >>> _filled(4, 2), _filled(5, 2)
    (1.0, 1.2)
    """
    return -(-number // devices) * devices / number


def cells_apart(cells: int, options: Mapping[str, Any], devices: list[Any]) -> bool:
    """Whether each device has whole cells; else all devices share each one's clients.

    Cells that are apart wait for nobody, but three of them leave one of two devices
    idle for a quarter of the time, where ten clients divide evenly. On accelerators a
    device plays its cells at once, and another one costs it little.

    Args:
      cells: of the group.
      options: all options of a cell, resolved.
      devices: of the sweep.
    """
    if cells < len(devices):
        return False
    if devices[0].platform != "cpu":
        return True
    clients = cohort_size(options["num_clients"], options["participation"])
    shared = _SHARING * _filled(clients, len(devices))
    return _filled(cells, len(devices)) <= shared


def over_devices(
    devices: list[Any], inner: client_map.CohortMap | None
) -> client_map.CohortMap:
    """How cells share the hardware.

    Args:
      devices: to divide the cells over.
      inner: how one device runs its cells. By default one after another on CPU, where
        the clients of one cell fill the caches, and all at once elsewhere.
    """
    if inner is None:
        on_cpu = devices[0].platform == "cpu"
        inner = client_map.chunked(1) if on_cpu else client_map.vmapped()
    if len(devices) == 1:
        return inner
    return client_map.sharded(client_map.device_mesh(devices), inner)


def clients_together(
    options: Mapping[str, Any], model: Model, devices: list[Any]
) -> client_map.CohortMap:
    """How one device runs the clients of a round, all of them.

    Where nothing else is asked for, a CPU core adds them up in parts of as many as
    `train` has on a device when it divides them: sums are then added in the same order.

    Args:
      options: all options of a cell, resolved.
      model: what is trained.
      devices: of the sweep.
    """
    at_once = clients_at_once(options, model, devices)
    if at_once is None:
        return client_map.vmapped()
    if options["cohort"] == "auto" and devices[0].platform == "cpu":
        clients = cohort_size(options["num_clients"], options["participation"])
        share = -(-clients // len(devices))
        if clients % share == 0:
            return client_map.chunked(share, client_map.chunked(at_once))
    return client_map.chunked(at_once)

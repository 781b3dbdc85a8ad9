"""Rules by which trials, and the clients of a round, share devices (--cohort auto)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from fedsparsify_jax import models
from fedsparsify_jax.client_map import ClientMap, chunked, device_mesh, sharded, vmapped
from fedsparsify_jax.engine.sampling import cohort_size
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.programs.client_memory import SERVER_COPIES
from fedsparsify_jax.trees import size

# One client's activations fill a device already, and batched kernels gain nothing.
_ONE_BY_ONE = tuple(n for n in models.NAMES if "conv" in models.options_of(n))

ClientBytes = Callable[[Any], int]
"""A device to the bytes that one client in training takes there, see
`client_memory.client_bytes`."""

# The same where nobody can ask a compiler, in copies of the model: weights, gradients,
# momentum, update, upload.
_COPIES = 5

_SHARING = 1.23
"""Cost of a round where devices share clients, relative: every one of them purges and
evaluates, and they wait for each other. Three seeds on two cores take 0.924 of the time
of whole trials, which do 4/3 of the work (benchmarks/README.md, `sweep_shares.py`)."""


def chunk_size(client: int, model: int, budget: int) -> int:
    """Returns how many clients' training fits into so many bytes, at least one.

    Args:
      client: bytes that one of them takes, see `client_memory.client_bytes`.
      model: bytes of the model.
      budget: bytes for clients and what the server's half of the round holds.

    >>> chunk_size(client=1_400_000, model=473_128, budget=2**30)
    765
    """
    return max(1, (budget - SERVER_COPIES * model) // client)


def clients_at_once(
    options: Mapping[str, Any],
    model: Model,
    device: Any,
    taken: ClientBytes | None = None,
    runs: int = 1,
) -> int | None:
    """Returns how many clients a device takes at a time, None for all of its share.

    Args:
      options: all options of a run, resolved.
      model: what is trained.
      device: one of the run.
      taken: what a client takes there; called only where memory decides. By default
        five copies of the model.
      runs: how many of them the device has at once.
    """
    choice, chunk = options["cohort"], options["chunk_size"]
    if choice == "vmap":
        return None
    if choice == "map" or chunk is not None:
        return chunk or 1
    # The weights of one client stay in a core's cache, those of several do not
    # (benchmarks/cohorts.py).
    if device.platform == "cpu" or options["model"] in _ONE_BY_ONE:
        return 1
    numbers = 4 * size(jax.eval_shape(model.init, jax.random.key(0)))
    client = _COPIES * numbers if taken is None else taken(device)
    # A quarter of the memory is for clients in training.
    memory = (device.memory_stats() or {}).get("bytes_limit", 8 * 2**30)
    return chunk_size(client, numbers, int(memory) // (4 * runs))


def cohort_map(
    options: Mapping[str, Any],
    model: Model,
    mesh: Mesh,
    taken: ClientBytes | None = None,
) -> ClientMap:
    """Returns the client map that the options of a run name.

    Clients are divided over the devices of the mesh. A device takes its share all at
    once (``vmap``), or ``chunk_size`` at a time (``map``, one by one by default).
    ``auto`` takes clients one by one on CPU, and convolutional ones anywhere; others in
    chunks of as many as fit into a quarter of an accelerator's memory.

    Args:
      options: all options of a run, resolved.
      model: what is trained.
      mesh: over the devices of the run.
      taken: what a client takes on a device, see `clients_at_once`.
    """
    chunk = clients_at_once(options, model, mesh.devices.flat[0], taken)
    inner = vmapped() if chunk is None else chunked(chunk)
    return sharded(mesh, inner) if mesh.size > 1 else inner


def _places(options: Mapping[str, Any]) -> int:
    """Returns the places for clients in a round."""
    return cohort_size(
        options["num_clients"], options["participation"], options["cohort_sampling"]
    )


def _filled(number: int, devices: int) -> float:
    """Returns how much more than it must be is done when devices are filled up.

    >>> _filled(4, 2), _filled(5, 2)
    (1.0, 1.2)
    """
    return -(-number // devices) * devices / number


def sharded_by_trial(
    trials: int, options: Mapping[str, Any], devices: list[Any]
) -> bool:
    """Returns whether to divide a group's trials, not each one's clients, over devices.

    Whole trials wait for no other device, but three of them leave one of two devices
    idle for a quarter of the time, where ten clients divide evenly. On accelerators a
    device runs its trials at once, and another one costs it little.

    Args:
      trials: of the group.
      options: all options of a trial, resolved.
      devices: of the sweep.
    """
    if trials < len(devices):
        return False
    if devices[0].platform != "cpu":
        return True
    clients = _places(options)
    shared = _SHARING * _filled(clients, len(devices))
    return _filled(trials, len(devices)) <= shared


def trial_map(devices: list[Any], inner: ClientMap | None) -> ClientMap:
    """Returns how trials that are divided over devices are run.

    Args:
      devices: to divide the trials over.
      inner: how one device runs its trials. By default one after another on CPU, where
        the clients of one trial fill the caches, and all at once elsewhere.
    """
    if inner is None:
        inner = chunked(1) if devices[0].platform == "cpu" else vmapped()
    if len(devices) == 1:
        return inner
    return sharded(device_mesh(devices), inner)


def client_map_of_trial(
    options: Mapping[str, Any],
    model: Model,
    devices: list[Any],
    taken: ClientBytes | None = None,
    trials: int = 1,
) -> ClientMap:
    """Returns how one device runs the clients of a round, all of them.

    Where nothing else is asked for, a CPU core adds them up in parts of as many as
    `train` has on a device when it divides them: sums are then added in the same order.

    Args:
      options: all options of a trial, resolved.
      model: what is trained.
      devices: of the sweep.
      taken: what a client takes on a device, see `clients_at_once`.
      trials: of the sweep, which an accelerator has at once.
    """
    runs = -(-trials // len(devices))
    at_once = clients_at_once(options, model, devices[0], taken, runs)
    if at_once is None:
        return vmapped()
    if options["cohort"] == "auto" and devices[0].platform == "cpu":
        clients = _places(options)
        share = -(-clients // len(devices))
        if clients % share == 0:
            return chunked(share, chunked(at_once))
    return chunked(at_once)

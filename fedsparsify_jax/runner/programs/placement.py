"""How the clients of a round share the devices: the rule behind ``--cohort auto``."""

from collections.abc import Mapping
from typing import Any

import jax

from fedsparsify_jax.client_map import CohortMap, chunked, sharded, vmapped
from fedsparsify_jax.models import Model
from fedsparsify_jax.trees import size

# One client's activations fill a device already, and batched kernels gain nothing.
_ONE_BY_ONE = ("cnn", "vgg16_bn", "resnet56", "brain_age_cnn")

# What training keeps of a client beside its data, in copies of the model: weights,
# gradients, momentum, update, upload.
_COPIES = 5


def _budget(device: Any) -> int:
    """Bytes that the clients in training may take on a device."""
    stats = device.memory_stats() or {}
    return int(stats.get("bytes_limit", 8 * 2**30)) // 4


def chunk_size(parameters: int, budget: int) -> int:
    """Clients whose training fits into so many bytes, at least one.

    >>> chunk_size(118_282, 2**30)
    453
    """
    return max(1, budget // (4 * _COPIES * parameters))


def clients_at_once(
    options: Mapping[str, Any], model: Model, devices: list[Any]
) -> int | None:
    """Clients that a device takes at a time, None for all of its share.

    Args:
      options: all options of a run, resolved.
      model: what is trained.
      devices: of the run.
    """
    choice, chunk = options["cohort"], options["chunk_size"]
    if choice == "vmap":
        return None
    if choice == "map" or chunk is not None:
        return chunk or 1
    # The weights of one client stay in a core's cache, those of several do not
    # (benchmarks/cohorts.py).
    if devices[0].platform == "cpu" or options["model"] in _ONE_BY_ONE:
        return 1
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return chunk_size(size(shapes), _budget(devices[0]))


def cohort_map(
    options: Mapping[str, Any], model: Model, devices: list[Any], mesh: Any
) -> CohortMap:
    """The strategy that the options of a run name.

    Clients are divided over the devices of the mesh. A device takes its share all at
    once (``vmap``), or ``chunk_size`` at a time (``map``, one by one by default).
    ``auto`` takes clients one by one on CPU, and convolutional ones anywhere; others in
    chunks of as many as fit into a quarter of an accelerator's memory.

    Args:
      options: all options of a run, resolved.
      model: what is trained.
      devices: of the run.
      mesh: over those devices.
    """
    chunk = clients_at_once(options, model, devices)
    inner = vmapped() if chunk is None else chunked(chunk)
    return sharded(mesh, inner) if mesh.size > 1 else inner

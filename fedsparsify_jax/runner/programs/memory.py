"""The least memory that a run needs, compared with the device's before it compiles."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fedsparsify_jax.engine.sampling import cohort_size
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import compression
from fedsparsify_jax.runner.programs.placement import clients_at_once
from fedsparsify_jax.trees import size

_GIB = 2**30


def memory_of(device: Any) -> int:
    """Returns a device's memory in bytes; a CPU's is the machine's."""
    if device.platform != "cpu":
        return int((device.memory_stats() or {}).get("bytes_limit", 2**62))
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system says it
        return 2**62


def check_memory(
    config: TrainConfig,
    model: Model,
    x: np.ndarray,
    parts: Sequence[np.ndarray],
    batch_size: int,
    devices: Sequence[Any],
) -> None:
    """Refuses a run whose data, weights and batches cannot fit.

    The estimate is a lower bound: activations and what the compiler adds are left out.

    Args:
      config: resolved.
      model: what is trained.
      x: ``[n, ...]``, all training inputs.
      parts: the clients' rows.
      batch_size: of a client, no longer than the longest one.
      devices: of the run.

    Raises:
      InputError: with the estimate, and the options that make it smaller.
    """
    device, options = devices[0], dataclasses.asdict(config)
    # CPU devices of one process have one memory.
    local = sum(other.process_index == device.process_index for other in devices)
    sharing = local if device.platform == "cpu" else 1
    cohort = cohort_size(len(parts), config.participation, config.cohort_sampling)
    share = -(-cohort // len(devices))
    at_once = min(clients_at_once(options, model, device) or share, share)
    example = math.prod(x.shape[1:])
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    numbers = size(shapes)
    stored = len(parts) * max(map(len, parts)) * example * x.dtype.itemsize
    if config.client_data == "disk":
        stored = 0
    training = sharing * at_once * 4 * (3 * numbers + batch_size * example)
    # Uploads that are measured stay until the round ends, those of the whole cohort.
    uploads = sharing * share * 4 * numbers if config.measure_bytes else 0
    residuals, sent = 0, compression(config)
    if sent is not None and sent.error_feedback:
        residuals = len(parts) * 4 * size(shapes["params"])
    needed, memory = stored + training + uploads + residuals, memory_of(device)
    if needed > memory:
        kept = f", and --measure-bytes keeps {uploads / _GIB:,.1f} GiB of uploads"
        kept_residuals = f", their residuals {residuals / _GIB:,.1f} (--error-feedback)"
        raise InputError(
            f"training needs at least {needed / _GIB:,.1f} GiB of memory, the device "
            f"has {memory / _GIB:,.1f}: --batch-size is {config.batch_size}, "
            f"{at_once} of {len(parts)} clients train at once (--chunk-size), and "
            f"their data take {stored / _GIB:,.1f} GiB (--client-data disk: none)"
            + (kept_residuals if residuals else "")
            + (kept if uploads else "")
        )

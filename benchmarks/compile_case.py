"""One case of `compile_for.py`: a Global round compiled for one target, as JSON.

python benchmarks/compile_case.py mlp v5e:2x2
python benchmarks/compile_case.py mlp cuda      # lowered, not compiled
"""

import json
import math
import os
import resource
import sys
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import paper_rounds
from compiled import collectives, memory
from global_round import lower, lowered_texts, memory_of_client, tpu_devices

from fedsparsify_jax import client_map
from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.runner.programs import placement
from fedsparsify_jax.trees import size

GIB = 2**30
CHIPS = {
    "TPU v5 lite": 16 * GIB,
    "TPU v6 lite": 32 * GIB,
    "TPU7x": 96 * GIB,
}
"""Memory of a device by its kind, from the maker's pages of each generation
(docs.cloud.google.com/tpu/docs/v5e, v6e, tpu7x; a chip of the last is two devices)."""

CLIENTS_A_CHIP, DATA_A_CHIP = 4, 4 * GIB
"""At most four, and at least one: a thousand volumes of a brain are 3.4 GiB."""


class Device:
    """What the rule of ``--cohort auto`` asks a device for, of one that is not here."""

    def __init__(self, device: Any):
        self.device, self.platform = device, device.platform

    def memory_stats(self) -> dict[str, int]:
        return {"bytes_limit": CHIPS[self.device.device_kind]}


def clients_at_once(work: paper_rounds.Work, device: Any) -> int | None:
    """How many clients ``--cohort auto`` has at once on a device; None for all."""
    options = {"cohort": "auto", "chunk_size": None, "model": work.model}
    return placement.clients_at_once(
        options,
        paper_rounds.model_of(work),
        Device(device),
        lambda asked: memory_of_client(work, asked.device),
    )


def inner_map(work: paper_rounds.Work, device: Any) -> ClientMap:
    """How a device runs its share under ``--cohort auto``."""
    at_once = clients_at_once(work, device)
    return client_map.vmapped() if at_once is None else client_map.chunked(at_once)


def clients_a_chip(work: paper_rounds.Work) -> int:
    """How many clients of the work a chip has, by their data.

    >>> [clients_a_chip(paper_rounds.ROUNDS[name]) for name in ("mlp", "brain_age_cnn")]
    [4, 1]
    """
    client = work.examples * math.prod(work.shape) * np.dtype(work.dtype).itemsize
    return max(1, min(CLIENTS_A_CHIP, DATA_A_CHIP // client))


def compile_for_topology(name: str, topology: str) -> dict[str, Any]:
    """Compiles for the devices of a TPU topology."""
    devices = tpu_devices(topology)
    work = paper_rounds.ROUNDS[name]
    clients = clients_a_chip(work) * len(devices)
    work = work._replace(clients=clients, cohort=None)
    lowered = lower(work, devices, inner_map(work, devices[0]))
    start = time.perf_counter()
    compiled = lowered.program.compile()
    end = time.perf_counter()
    text = compiled.as_text()
    kind = devices[0].device_kind
    return {
        "device": kind,
        "devices": len(devices),
        "clients": clients,
        "examples": work.examples,
        "parameters": size(lowered.variables["params"]),
        "model_bytes": paper_rounds.bytes_of(lowered.variables),
        "lower_s": lowered.seconds,
        "compile_s": end - start,
        "memory": memory(compiled),
        "memory_of_device": CHIPS[kind],
        "collectives": {k: v._asdict() for k, v in collectives(text).items()},
        "convolutions": text.count(" convolution("),
    }


def lower_for(name: str, platform: str) -> dict[str, Any]:
    """Lowers for a platform whose compiler needs its device."""
    work = paper_rounds.ROUNDS[name]
    model = paper_rounds.model_of(work)
    start = time.perf_counter()
    text = lowered_texts(work, [platform], client_map.chunked(1))[platform]
    end = time.perf_counter()
    return {
        "devices": 1,
        "clients": work.clients,
        "examples": work.examples,
        "parameters": size(jax.eval_shape(model.init, jax.random.key(0))["params"]),
        "lower_s": end - start,
        "lines": text.count("\n"),
        "convolutions": text.count("stablehlo.convolution"),
        "products": text.count("stablehlo.dot_general"),
        "custom_calls": text.count("stablehlo.custom_call"),
    }


def main() -> None:
    name, target = sys.argv[1:]
    run = compile_for_topology if ":" in target else lower_for
    result = run(name, target)
    peak = resource.getrusage(resource.RUSAGE_SELF)
    result["host_peak_mb"] = peak.ru_maxrss // 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()

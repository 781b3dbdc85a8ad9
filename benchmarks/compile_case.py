"""One case of `compile_for.py`: a Global round compiled for one target, as JSON.

python benchmarks/compile_case.py mlp v5e:2x2
python benchmarks/compile_case.py mlp cuda      # lowered and exported, not compiled
"""

import json
import os
import resource
import sys
import time
from typing import Any

# Before JAX is imported: no cloud is asked what machine this is, and nothing runs.
os.environ.update(
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    TPU_WORKER_HOSTNAMES="localhost",
    JAX_PLATFORMS="cpu",
)

import jax
import paper_rounds
from compiled import collectives, memory
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from fedsparsify_jax import algorithms, client_map
from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.runner.programs.devices import Placement
from fedsparsify_jax.runner.programs.placement import chunk_size
from fedsparsify_jax.trees import size
from fedsparsify_jax.types import FederatedAlgorithm, PyTree

GIB = 2**30
CHIPS = {
    "TPU v5 lite": 16 * GIB,
    "TPU v6 lite": 32 * GIB,
    "TPU7x": 96 * GIB,
}
"""Memory of a device by its kind, from the maker's pages of each generation
(docs.cloud.google.com/tpu/docs/v5e, v6e, tpu7x; a chip of the last is two devices)."""

CLIENTS_A_CHIP = 4


def inner_map(work: paper_rounds.Work, numbers: int, bytes_of_device: int) -> ClientMap:
    """How a device runs its share: the rule of ``--cohort auto`` for accelerators."""
    if work.model in ("cnn", "vgg16_bn", "resnet56", "brain_age_cnn", "resnet18_gn"):
        return client_map.chunked(1)
    return client_map.chunked(chunk_size(numbers, bytes_of_device // 4))


def algorithm_of(
    work: paper_rounds.Work, apply_fn: Any, clients: ClientMap
) -> FederatedAlgorithm:
    return algorithms.fedsparsify_global(
        apply_fn,
        final_sparsity=0.95,
        rounds=200,
        client_map=clients,
        **paper_rounds.options(work),
    )


def placed(tree: PyTree, shardings: PyTree) -> PyTree:
    """Shapes with the places of their arrays."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        tree,
        shardings,
    )


def compile_for_topology(name: str, topology: str) -> dict[str, Any]:
    """Compiles for the devices of a TPU topology."""
    devices = list(topologies.get_topology_desc(topology, "tpu").devices)
    clients = CLIENTS_A_CHIP * len(devices)
    work = paper_rounds.ROUNDS[name]._replace(clients=clients, cohort=None)
    model = paper_rounds.model_of(work)
    placement = Placement(client_map.device_mesh(devices), divided=True)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    inner = inner_map(work, size(variables), CHIPS[devices[0].device_kind])
    algorithm = algorithm_of(
        work, model.apply, client_map.sharded(placement.mesh, inner)
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(algorithm.init, key, variables)
    everywhere = NamedSharding(placement.mesh, PartitionSpec())
    data = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=placement.by_client
        ),
        paper_rounds.client_shapes(work),
    )
    step = jax.jit(
        algorithm.step,
        donate_argnums=1,
        out_shardings=(placement.of_state(state), everywhere),
    )
    start = time.perf_counter()
    lowered = step.lower(
        jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere),
        placed(state, placement.of_state(state)),
        data,
    )
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    text = compiled.as_text()
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "clients": clients,
        "examples": work.examples,
        "parameters": size(variables["params"]),
        "model_bytes": paper_rounds.bytes_of(variables),
        "lower_s": middle - start,
        "compile_s": end - middle,
        "memory": memory(compiled),
        "memory_of_device": CHIPS[devices[0].device_kind],
        "collectives": {k: v._asdict() for k, v in collectives(text).items()},
        "convolutions": text.count(" convolution("),
    }


def lower_for(name: str, platform: str) -> dict[str, Any]:
    """Lowers and exports for a platform whose compiler needs its device."""
    work = paper_rounds.ROUNDS[name]
    model = paper_rounds.model_of(work)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    inner = inner_map(work, size(variables), 16 * GIB)
    algorithm = algorithm_of(work, model.apply, inner)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(algorithm.init, key, variables)
    data = paper_rounds.client_shapes(work)
    start = time.perf_counter()
    traced = jax.jit(algorithm.step).trace(key, state, data)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    end = time.perf_counter()
    return {
        "devices": 1,
        "clients": work.clients,
        "examples": work.examples,
        "parameters": size(variables["params"]),
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

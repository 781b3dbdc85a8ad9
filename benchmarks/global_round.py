"""A Global round compiled from shapes alone, for any devices, there or not."""

import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import paper_rounds
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from fedsparsify_jax import algorithms, client_map, data
from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.data import Dataset
from fedsparsify_jax.runner.programs.client_memory import client_bytes
from fedsparsify_jax.runner.programs.devices import Placement
from fedsparsify_jax.types import Examples, FederatedAlgorithm, PyTree, Variables


class Lowered(NamedTuple):
    """A round before it is compiled.

    Attributes:
      program: its ``lower`` stage, which compiles.
      variables: shapes of the model's.
      seconds: what tracing and lowering took.
    """

    program: Any
    variables: Variables
    seconds: float


def tpu_devices(topology: str) -> list[Any]:
    """The devices of a TPU topology such as ``v5e:2x2``, which need not be there.

    Before libtpu is loaded it is told what machine this is, or it would ask a cloud,
    and that other processes may have it too, for none of them has a TPU.
    """
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    return list(topologies.get_topology_desc(topology, "tpu").devices)


def algorithm_of(
    work: paper_rounds.Work, apply_fn: Any, clients: ClientMap
) -> FederatedAlgorithm:
    """FedSparsify-Global with the settings of the work."""
    return algorithms.fedsparsify_global(
        apply_fn,
        final_sparsity=0.95,
        rounds=200,
        client_map=clients,
        **paper_rounds.options(work),
    )


def lower(work: paper_rounds.Work, devices: list[Any], inner: ClientMap) -> Lowered:
    """Lowers the round of clients that are divided over devices.

    Args:
      work: all of whose clients take part, and divide evenly.
      devices: of the round.
      inner: how one of them runs its share.
    """
    model = paper_rounds.model_of(work)
    placement = Placement(client_map.device_mesh(devices), divided=True)
    clients = client_map.sharded(placement.mesh, inner)
    algorithm = algorithm_of(work, model.apply, clients)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(algorithm.init, key, variables)
    everywhere = NamedSharding(placement.mesh, PartitionSpec())
    step = jax.jit(
        algorithm.step,
        donate_argnums=1,
        out_shardings=(placement.of_state(state), everywhere),
    )
    start = time.perf_counter()
    program = step.lower(
        _placed(key, everywhere),
        jax.tree.map(_placed, state, placement.of_state(state)),
        jax.tree.map(
            lambda leaf: _placed(leaf, placement.by_client),
            paper_rounds.client_shapes(work),
        ),
    )
    return Lowered(program, variables, time.perf_counter() - start)


def lowered_texts(
    work: paper_rounds.Work, platforms: Sequence[str], inner: ClientMap
) -> dict[str, str]:
    """StableHLO of the round on one device of platforms whose compilers are absent."""
    model = paper_rounds.model_of(work)
    algorithm = algorithm_of(work, model.apply, inner)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(algorithm.init, key, variables)
    traced = jax.jit(algorithm.step).trace(key, state, paper_rounds.client_shapes(work))
    return {
        name: traced.lower(lowering_platforms=(name,)).as_text() for name in platforms
    }


def memory_of_client(work: paper_rounds.Work, device: Any) -> int:
    """Bytes of a client in training, as ``--cohort auto`` predicts them."""
    options = paper_rounds.options(work)
    x = np.zeros((1, *work.shape), work.dtype)
    y = np.zeros(1, paper_rounds.client_shapes(work).y.dtype)
    dataset = Dataset(
        "synthetic",
        train=Examples(x, y),
        test=Examples(x, y),
        num_classes=work.classes,
        normalization=data.Normalization(),
        task=paper_rounds.task_of(work),
    )
    model = paper_rounds.model_of(work)
    return client_bytes(options, model, dataset, work.examples, device)


def _placed(leaf: Any, place: Any) -> PyTree:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

"""FLOPs of a run: of its final model, and of what its clients trained on the way.

Counted for one example, see `metrics.flops`. ``training_flops_mean`` is the mean over
the rounds, each with the masks that it ended with:

* of a network that grows (ProgFed), the blocks that were there and the head behind
  them; rounds of warming up count as others, though older blocks have no gradients;
* of clients with narrower networks (HeteroFL, FedRolex), the mean over all clients of
  the network that each of them has; ``training_flops_by_width`` has every width's;
* of any other method, the server's network. Clients with masks of their own
  (LotteryFL, DisPFL) may do with less.
"""

import statistics
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks, trees
from fedsparsify_jax.algorithms._shared.chain import chain_of, unit_masks
from fedsparsify_jax.algorithms.heterofl import WIDTHS, window
from fedsparsify_jax.metrics import inference_flops, layer_flops, training_flops
from fedsparsify_jax.metrics.flops import LayerFlops
from fedsparsify_jax.runner.display.summary import Record
from fedsparsify_jax.runner.options import grammars
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.registry import takes
from fedsparsify_jax.runner.programs.federation import Federation
from fedsparsify_jax.runner.programs.spared import shapes_of
from fedsparsify_jax.types import Variables

Layers = Mapping[str, LayerFlops]


def layers_of(federation: Federation, variables: Variables) -> Layers | None:
    """Returns the layers of a network, dense; None if they cannot be counted.

    Args:
      federation: what was trained.
      variables: of its state, or their shapes.
    """
    x = federation.dataset.test.x[:1]
    try:
        return layer_flops(federation.model.apply, variables, x.shape, x.dtype)
    except ValueError:  # a loop of unknown length, say
        return None


def flops_of(
    config: TrainConfig,
    federation: Federation,
    layers: Layers | None,
    records: list[Record],
    kept: Mapping[str, int],
) -> dict[str, Any]:
    """Returns the fields of the summary on FLOPs; none if they cannot be counted.

    Args:
      config: resolved.
      federation: what was trained.
      layers: as from `layers_of`.
      records: of all rounds.
      kept: path of a leaf to its entries that the final model keeps.
    """
    if layers is None:
        return {}
    x = federation.dataset.test.x[:1]
    fields: dict[str, Any] = {
        "inference_flops_dense": inference_flops(layers),
        "inference_flops": inference_flops(layers, kept=kept),
        "training_flops_dense": training_flops(layers),
        "training_flops": training_flops(layers, kept=kept),
    }
    if takes(config.algorithm, "widths"):
        return fields | _by_width(config, federation, layers, x)
    if takes(config.algorithm, "stages"):
        heads = _heads(federation, x)
        layers = {**layers} | {n: head for n, head in heads.items() if n in kept}
    means = [training_flops(layers, kept=record["kept"]) for record in records]
    return fields | {"training_flops_mean": round(statistics.fmean(means))}


def _heads(federation: Federation, x: Any) -> dict[str, LayerFlops]:
    """Returns the layers that only the networks of a model's first blocks have."""
    own = {name for name, _ in trees.named_leaves(shapes_of(federation.model))}
    heads: dict[str, LayerFlops] = {}
    for part in federation.model.parts[:-1]:
        layers = layer_flops(part.apply, shapes_of(part), x.shape, x.dtype)
        heads |= {name: layer for name, layer in layers.items() if name not in own}
    return heads


def _by_width(
    config: TrainConfig,
    federation: Federation,
    layers: Layers,
    x: Any,
) -> dict[str, Any]:
    """Returns the FLOPs of the clients' networks, which are narrower than the model."""
    widths = WIDTHS if config.widths is None else grammars.widths(config.widths)
    model, shapes = federation.model, shapes_of(federation.model)
    stages = chain_of(model.apply, shapes, jax.ShapeDtypeStruct(x.shape, x.dtype))

    def step(level: int) -> int:
        units = [window(stage.outputs, widths, level, 0) for stage in stages[:-1]]
        every = jnp.ones(stages[-1].outputs, bool)
        counts = masks.kept(unit_masks(stages, shapes, [*units, every]))
        kept = {name: int(count) for name, count in counts.items()}
        total: int = training_flops(layers, kept=kept)
        return total

    each = [step(level) for level in range(len(widths))]
    clients = [each[number % len(each)] for number in range(len(federation.parts))]
    return {
        "training_flops_by_width": {
            f"{width:g}": flops for width, flops in zip(widths, each, strict=True)
        },
        "training_flops_mean": round(statistics.fmean(clients)),
    }

"""FLOPs of inference and training at the current masks.

Counted are matrix products and convolutions, two FLOPs for a multiply-add, each scaled
by the density of the leaf it reads:

    dense layer    2 B nnz(kernel)
    convolution    2 B H' W' nnz(kernel), with H', W' the output's space

A training step is the forward pass, the gradient by the weights (of kept weights only)
and the gradient by the layer's inputs, all three of the same cost; what no trained
weight comes before (the first layer's inputs) needs no gradient. So a step is three
times inference less one first layer.

Left out is elementwise work (biases, activations, normalisation, pooling, the loss, the
optimizer), which is 0.2 to 2 % of what XLA counts in the paper's networks. XLA in turn
leaves out the taps of its own convolutions that meet padding, 6 to 8 % there; they
count here, as they do in the usual formula above. The count is that of a computation
that skips every pruned weight; XLA's dense products skip none.

References:
  Evci et al., Rigging the Lottery (arXiv 1911.11134), on counting FLOPs: a sparse step
  as three sparse forward passes.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.metrics._matmuls import NO_LEAF as NO_LEAF
from fedsparsify_jax.metrics._matmuls import Ledger, Value, walk
from fedsparsify_jax.types import ApplyFn, Masks, Variables


class LayerFlops(NamedTuple):
    """FLOPs of all products that read one leaf, as if it were dense."""

    forward: int
    weight_gradient: int
    input_gradient: int
    size: int  # numbers in the leaf


def layer_flops(
    apply_fn: ApplyFn,
    variables: Variables,
    x_shape: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
) -> dict[str, LayerFlops]:
    """Counts dense FLOPs of a model's products by the leaf that each of them reads.

    The forward pass is traced, not run, and every product given to the leaf that one
    of its operands is made of, through reshapes, transposes, slices, concatenations,
    casts, and products with a scale or a mask. Convolutions may be XLA's or patches
    times a matrix; scans count as often as they repeat, of branches the dearest counts.

    Args:
      apply_fn: the model's forward pass, traced with ``train=False``.
      variables: the model's variables, or only their shapes (``jax.eval_shape``).
      x_shape: shape of the inputs ``[B, ...]``; B = 1 for FLOPs an example.
      dtype: of the inputs.

    Returns:
      Path of a leaf to its FLOPs, in the order of the variables. Products of
      two activations (attention) or of two leaves are under `NO_LEAF`, and stay dense.

    Raises:
      ValueError: for products in a loop whose length is not known.

    Example:
      >>> mlp = lambda v, x: (jax.nn.relu(x @ v["params"]["a"]) @ v["params"]["b"], {})
      >>> variables = {"params": {"a": jnp.ones((4, 8)), "b": jnp.ones((8, 2))}}
      >>> for path, flops in layer_flops(mlp, variables, (1, 4)).items():
      ...     print(path, flops)
      params/a LayerFlops(forward=64, weight_gradient=64, input_gradient=0, size=32)
      params/b LayerFlops(forward=32, weight_gradient=32, input_gradient=32, size=16)
    """
    ledger = _ledger(apply_fn, variables, x_shape, dtype)
    leaves = dict(trees.named_leaves(variables))
    sizes = {path: leaf.size for path, leaf in leaves.items()} | {NO_LEAF: 0}
    return {
        path: LayerFlops(
            forward=round(ledger[path].forward),
            weight_gradient=round(ledger[path].weight_gradient),
            input_gradient=round(ledger[path].input_gradient),
            size=size,
        )
        for path, size in sizes.items()
        if path in ledger
    }


def product_order(
    apply_fn: ApplyFn,
    variables: Variables,
    x_shape: tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
) -> list[str]:
    """Returns the leaves that products read, from the input of a model to its output.

    Args:
      apply_fn: the model's forward pass, traced with ``train=False``.
      variables: the model's variables, or only their shapes.
      x_shape: shape of the inputs ``[B, ...]``.
      dtype: of the inputs.

    Returns:
      Paths in the order of the first product of each.

    Raises:
      ValueError: for products in a loop whose length is not known.

    Example:
      >>> mlp = lambda v, x: (jax.nn.relu(x @ v["params"]["b"]) @ v["params"]["a"], {})
      >>> variables = {"params": {"a": jnp.ones((8, 2)), "b": jnp.ones((4, 8))}}
      >>> product_order(mlp, variables, (1, 4))
      ['params/b', 'params/a']
    """
    ledger = _ledger(apply_fn, variables, x_shape, dtype)
    return [path for path in ledger if path != NO_LEAF]


def _ledger(
    apply_fn: ApplyFn, variables: Variables, x_shape: tuple[int, ...], dtype: DTypeLike
) -> Ledger:
    inputs = jax.ShapeDtypeStruct(x_shape, dtype)
    closed = jax.make_jaxpr(lambda variables, x: apply_fn(variables, x)[0])(
        variables, inputs
    )
    values = [_leaf(path, variables) for path, _ in trees.named_leaves(variables)]
    _, ledger = walk(closed.jaxpr, [*values, Value({}, trained=False, data=True)])
    return ledger


def _leaf(path: str, variables: Variables) -> Value:
    """Returns the origin of a leaf, which is trained if it is a parameter."""
    trained = "params" not in variables or path.split("/")[0] == "params"
    return Value({path: Fraction(1)}, trained=trained, data=False)


def inference_flops(
    layers: Mapping[str, LayerFlops],
    masks: Masks | None = None,
    *,
    kept: Mapping[str, ArrayLike] | None = None,
) -> Any:
    """Counts FLOPs of a forward pass in which pruned weights cost nothing.

    Args:
      layers: from `layer_flops`.
      masks: of the kept entries; everything by default.
      kept: instead of masks, path of a leaf to the number of kept entries, as in
        `RoundInfo` and ``metrics.jsonl``.

    Returns:
      An exact int; for traced masks or counts a float32 scalar.

    Raises:
      ValueError: if both masks and counts are given, or a leaf is missing.

    Example:
      >>> layer = LayerFlops(forward=64, weight_gradient=64, input_gradient=0, size=32)
      >>> layers = {"params/w": layer}
      >>> inference_flops(layers), inference_flops(layers, kept={"params/w": 8})
      (64, 16)
    """
    return _total(layers, masks, kept, training=False)


def training_flops(
    layers: Mapping[str, LayerFlops],
    masks: Masks | None = None,
    *,
    kept: Mapping[str, ArrayLike] | None = None,
) -> Any:
    """Counts FLOPs of a training step: forward, gradients by weights and by inputs.

    Methods that also need the gradients of pruned weights do more: FedDST in one batch
    of a round that adjusts masks, PruneFL in every step of a round that chooses them.

    Args:
      layers: from `layer_flops`.
      masks: of the kept entries; everything by default.
      kept: path of a leaf to kept entries, see `inference_flops`.

    Returns:
      An exact int; for traced masks or counts a float32 scalar.

    Example:
      >>> layer = LayerFlops(forward=64, weight_gradient=64, input_gradient=0, size=32)
      >>> layers = {"params/w": layer}
      >>> training_flops(layers), training_flops(layers, kept={"params/w": 8})
      (128, 32)
    """
    return _total(layers, masks, kept, training=True)


def _total(
    layers: Mapping[str, LayerFlops],
    masks: Masks | None,
    kept: Mapping[str, ArrayLike] | None,
    *,
    training: bool,
) -> Any:
    if masks is not None:
        if kept is not None:
            raise ValueError("give masks or kept counts, not both")
        kept = mask_algebra.kept(masks)
    # Dense FLOPs first; kept entries scale them, exactly if they are plain numbers.
    work = {path: layer.forward for path, layer in layers.items()}
    if training:
        for path, layer in layers.items():
            work[path] += layer.weight_gradient + layer.input_gradient
    if kept is None:
        return sum(work.values())
    missing = set(layers) - set(kept) - {NO_LEAF}
    if missing:
        raise ValueError(f"no mask or count for {', '.join(sorted(missing))}")
    counts: dict[str, Any] = {path: kept[path] for path in layers if path != NO_LEAF}
    total: Any = work.get(NO_LEAF, 0)
    traced = any(isinstance(count, jax.core.Tracer) for count in counts.values())
    for path, count in counts.items():
        size = max(layers[path].size, 1)
        if traced:
            total = total + jnp.float32(work[path] / size) * count
        else:
            total += work[path] * int(count) // size
    return total

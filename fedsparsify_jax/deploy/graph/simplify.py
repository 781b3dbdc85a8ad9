"""Fewer and larger nodes: pools, means and norms recognised, constants folded.

Networks of this library write a pool as the maximum of strided slices and a norm as
arithmetic (`models.networks.layers` says why); other runtimes have operations for them.
Results stay the same up to the rounding of products.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fedsparsify_jax.deploy.graph.nodes import Graph, Node, pruned, users

Nodes = list[Node]


def simplify(graph: Graph) -> Graph:
    """Returns a graph with the same outputs in fewer nodes.

    Example:
      >>> import jax
      >>> from fedsparsify_jax import models
      >>> from fedsparsify_jax.deploy.graph.tracing import trace
      >>> model = models.build("mlp", input_shape=(2, 2), num_classes=2, hidden=(3,))
      >>> graph = trace(model.apply, model.init(jax.random.key(0)), (2, 2), "float32")
      >>> [node.kind for node in simplify(graph)]
      ['input', 'reshape', 'dense', 'relu', 'dense']
    """
    for rule in (_pools, _joined_pools, _means, _norms, _joined_affines, _folded):
        graph = _applied(graph, rule)
    return _without_sums(graph)


Rule = Callable[[Nodes, int, list[list[int]]], Node | int | None]
"""Nodes, the number of one, and who reads whom, to what stands in its place: another
node, the number of an earlier one, or None to leave it."""


def _applied(graph: Graph, rule: Rule) -> Graph:
    """Applies a rule to one node after the other; drops what nobody reads then."""
    nodes, readers, instead = list(graph), users(graph), list(range(len(graph)))
    for number in range(len(nodes)):
        inputs = tuple(instead[source] for source in nodes[number].inputs)
        nodes[number] = nodes[number]._replace(inputs=inputs)
        new = rule(nodes, number, readers)
        if isinstance(new, Node):
            nodes[number] = new
        elif new is not None:
            instead[number] = new
            readers[new] = [*readers[new], *readers[number]]
    return pruned(nodes, instead[-1])


def _alone(nodes: Nodes, number: int, readers: list[list[int]], kind: str) -> bool:
    """Returns whether a node is of a kind and read only once."""
    return nodes[number].kind == kind and len(readers[number]) == 1


def _pools(nodes: Nodes, number: int, readers: list[list[int]]) -> Node | None:
    """Recognises the maximum or the sum of the strided slices of one axis."""
    node = nodes[number]
    if node.kind not in ("max", "add"):
        return None
    leaves, waiting = [], list(node.inputs)
    while waiting:
        source = waiting.pop()
        if _alone(nodes, source, readers, node.kind):
            waiting.extend(nodes[source].inputs)
        else:
            leaves.append(nodes[source])
    if any(leaf.kind != "slice" or leaf.inputs != leaves[0].inputs for leaf in leaves):
        return None
    (source,) = leaves[0].inputs
    axis = _divided_axis(leaves, nodes[source].shape)
    if axis is None:
        return None
    window = [1] * len(node.shape)
    window[axis] = len(leaves)
    kind = "max_pool" if node.kind == "max" else "sum_pool"
    return Node(kind, (source,), node.shape, {"window": window})


def _divided_axis(leaves: list[Node], shape: tuple[int, ...]) -> int | None:
    """Returns the axis that slices divide among them, each every n-th entry."""
    count = len(leaves)
    steps = [1] * len(shape)
    strided = [n for n, step in enumerate(leaves[0].settings["step"]) if step == count]
    if count < 2 or len(strided) != 1:
        return None
    (axis,) = strided
    steps[axis] = count
    starts = sorted(leaf.settings["start"][axis] for leaf in leaves)
    for leaf in leaves:
        whole = all(n == axis or size == shape[n] for n, size in enumerate(leaf.shape))
        if leaf.settings["step"] != steps or not whole:
            return None
    fits = leaves[0].shape[axis] == shape[axis] // count
    return axis if fits and starts == list(range(count)) else None


def _joined_pools(nodes: Nodes, number: int, readers: list[list[int]]) -> Node | None:
    """Joins a pool of one axis to that of another."""
    node = nodes[number]
    if node.kind not in ("max_pool", "sum_pool"):
        return None
    before = nodes[node.inputs[0]]
    if not _alone(nodes, node.inputs[0], readers, node.kind):
        return None
    pairs = zip(node.settings["window"], before.settings["window"], strict=True)
    window = [a * b for a, b in pairs]
    return node._replace(inputs=before.inputs, settings={"window": window})


def _summed(node: Node, before: tuple[int, ...]) -> int:
    """Returns how many numbers a sum adds up to one."""
    if node.kind == "sum_pool":
        return math.prod(node.settings["window"])
    return math.prod(before[axis] for axis in node.settings["axes"])


_MEANS = {"sum": "mean", "sum_pool": "mean_pool"}


def _means(nodes: Nodes, number: int, readers: list[list[int]]) -> Node | None:
    """Recognises a sum that is divided by how many it adds up."""
    node = nodes[number]
    if node.kind != "affine" or set(node.arrays) != {"scale"}:
        return None
    total = nodes[node.inputs[0]]
    if total.kind not in _MEANS or node.arrays["scale"].shape != ():
        return None
    count = _summed(total, nodes[total.inputs[0]].shape)
    if not math.isclose(float(node.arrays["scale"]) * count, 1, rel_tol=1e-6):
        return None
    return total._replace(kind=_MEANS[total.kind])


def _norms(nodes: Nodes, number: int, readers: list[list[int]]) -> Node | None:
    """Recognises an instance norm: ``(x - mean) * rsqrt(mean((x - mean)^2) + e)``."""
    node = nodes[number]
    if node.kind != "mul":
        return None
    centred, factor = (nodes[source] for source in node.inputs)
    if centred.kind != "sub" or factor.kind != "rsqrt":
        return None
    shifted = nodes[factor.inputs[0]]
    if shifted.kind != "affine" or set(shifted.arrays) != {"shift"}:
        return None
    var = nodes[shifted.inputs[0]]
    source, middle = centred.inputs
    square = nodes[var.inputs[0]]
    is_mean = all(_of_space(one, node.shape) for one in (var, nodes[middle]))
    if not is_mean or nodes[middle].inputs != (source,):
        return None
    if square.kind != "square" or square.inputs != (node.inputs[0],):
        return None
    if shifted.arrays["shift"].shape != ():
        return None
    settings = {"epsilon": float(shifted.arrays["shift"])}
    return Node("instance_norm", (source,), node.shape, settings)


def _of_space(node: Node, shape: tuple[int, ...]) -> bool:
    axes = list(range(len(shape) - 1))
    return node.kind == "mean" and node.settings == {"axes": axes, "keep": True}


def _joined_affines(nodes: Nodes, number: int, readers: list[list[int]]) -> Node | None:
    """Joins two affine functions in a row."""
    node = nodes[number]
    if node.kind != "affine" or not _alone(nodes, node.inputs[0], readers, "affine"):
        return None
    before, arrays = nodes[node.inputs[0]], dict(node.arrays)
    scale = arrays.get("scale")
    if "scale" in before.arrays:
        first = before.arrays["scale"]
        arrays["scale"] = first if scale is None else first * scale
    if "shift" in before.arrays:
        first = before.arrays["shift"]
        moved = first if scale is None else first * scale
        arrays["shift"] = moved + arrays["shift"] if "shift" in arrays else moved
    return node._replace(inputs=before.inputs, arrays=arrays)


def _folded(nodes: Nodes, number: int, readers: list[list[int]]) -> Node | None:
    """Folds scale and shift of every channel into the layer before them."""
    node = nodes[number]
    if node.kind != "affine":
        return None
    layer = nodes[node.inputs[0]]
    if layer.kind not in ("dense", "conv") or len(readers[node.inputs[0]]) != 1:
        return None
    if any(array.ndim > 1 for array in node.arrays.values()):
        return None
    arrays: dict[str, Any] = dict(layer.arrays)
    if "scale" in node.arrays:
        scale = node.arrays["scale"]  # + 0, so that zeros stay without a sign
        arrays = {name: array * scale + 0 for name, array in arrays.items()}
    if "shift" in node.arrays:
        bias = arrays.get("bias", np.float32(0)) + node.arrays["shift"]
        arrays["bias"] = np.broadcast_to(bias, (layer.channels,)).astype(np.float32)
    return layer._replace(arrays=arrays)


def _without_sums(graph: Graph) -> Graph:
    """Replaces sums that are no means by means and a factor."""
    nodes: Nodes = []
    place: list[int] = []
    for node in graph:
        inputs = tuple(place[source] for source in node.inputs)
        if node.kind in _MEANS:
            count = np.float32(_summed(node, graph[node.inputs[0]].shape))
            nodes.append(node._replace(kind=_MEANS[node.kind], inputs=inputs))
            factor = {"scale": np.asarray(count)}
            nodes.append(Node("affine", (len(nodes) - 1,), node.shape, {}, factor))
        else:
            nodes.append(node._replace(inputs=inputs))
        place.append(len(nodes) - 1)
    return pruned(nodes, place[-1])

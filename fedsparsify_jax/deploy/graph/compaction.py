"""A smaller network with the same outputs: dead units removed, constants folded.

A channel goes if nobody reads it, or if it is constant (`constants`) and what reads it
can have the constant in its bias. A convolution that pads cannot, because at the border
it reads less of the constant; of all constant channels that it reads one stays, and
carries the others.
"""

import numpy as np

from fedsparsify_jax.deploy.graph.constants import (
    Constants,
    constants,
    is_padded,
    taps,
)
from fedsparsify_jax.deploy.graph.nodes import BINARY, UNARY, Graph, Node, pruned
from fedsparsify_jax.training.compact.structure import unit_mask

Kept = list[np.ndarray]
"""Of every node the channels that stay: bool ``[channels]``."""

_LAYERS = ("dense", "conv")
# Kinds whose results have the channels of what they read.
_TIED = ("cast", "affine", "max_pool", "mean_pool", "mean", "instance_norm", *UNARY)


def compact(graph: Graph) -> Graph:
    """Returns the smallest dense network that this analysis finds.

    The inputs stay as they are: a first layer reads those that matter by ``take``.
    Outputs differ by the rounding of sums alone.

    Example:
      >>> first, second = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[3.0], [4.0]])
      >>> bias = np.array([0.0, 2.0])
      >>> graph = (Node("input", (), (2,), {"dtype": "float32"}),
      ...          Node("dense", (0,), (2,), {}, {"kernel": first, "bias": bias}),
      ...          Node("relu", (1,), (2,)),
      ...          Node("dense", (2,), (1,), {}, {"kernel": second}))
      >>> small = compact(graph)
      >>> [node.shape for node in small], small[-1].arrays["bias"].tolist()
      ([(2,), (1,), (1,), (1,)], [8.0])
    """
    graph = _with_selections(_without_constant_terms(graph))
    known = constants(graph)
    kept = _kept(graph, known)
    return _without_whole_selections(
        tuple(_narrowed(graph, number, known, kept) for number in range(len(graph)))
    )


def _without_constant_terms(graph: Graph) -> Graph:
    """Makes sums with a result that is constant affine functions of the other one."""
    nodes = list(graph)
    known = constants(graph)
    for number, node in enumerate(nodes):
        if node.kind != "add" or graph[node.inputs[0]].shape != node.shape:
            continue
        for place, other in (node.inputs, node.inputs[::-1]):
            whole = graph[place].shape == node.shape
            if whole and not np.isnan(known[other]).any():
                shift = {"shift": known[other].astype(np.float32)}
                nodes[number] = Node("affine", (place,), node.shape, {}, shift)
                break
    return pruned(nodes, len(nodes) - 1)


def _with_selections(graph: Graph) -> Graph:
    """Puts a choice of features before every dense layer that reads the inputs."""
    nodes: list[Node] = []
    place: list[int] = []
    raw: list[bool] = []  # no weights lead to it
    for node in graph:
        is_raw = node.kind not in _LAYERS and all(raw[n] for n in node.inputs)
        inputs = tuple(place[source] for source in node.inputs)
        if node.kind == "dense" and raw[node.inputs[0]]:
            source = graph[node.inputs[0]]
            every = {"indices": np.arange(source.channels, dtype=np.int32)}
            nodes.append(Node("take", inputs, source.shape, {}, every))
            inputs = (len(nodes) - 1,)
        nodes.append(node._replace(inputs=inputs))
        place.append(len(nodes) - 1)
        raw.append(is_raw)
    return tuple(nodes)


def _kept(graph: Graph, known: list[Constants]) -> Kept:
    """Returns the channels that must stay: the smallest sets that fit one another."""
    kept = [np.zeros(node.channels, bool) for node in graph]
    kept[0][:] = True
    kept[-1][:] = True
    size = -1
    while size != (size := sum(int(channels.sum()) for channels in kept)):
        for number in reversed(range(len(graph))):
            _demand(graph, number, known, kept)
        for channels in kept:  # no result without any
            channels[0] |= not channels.any()
    return kept


def _demand(graph: Graph, number: int, known: list[Constants], kept: Kept) -> None:
    """Adds to the kept channels of a node and of what it reads what fits the other."""
    node, own = graph[number], kept[number]
    if node.kind == "input":
        return
    inputs = [kept[source] for source in node.inputs]
    (first, *_) = inputs
    if node.kind in _LAYERS:
        first |= _needed(node, own, known[node.inputs[0]], first)
    elif node.kind == "take":
        first[np.asarray(node.arrays["indices"])[own]] = True
    elif node.kind == "pad":
        before, after = node.settings["widths"][-1]
        inner = own[before : own.shape[0] - after]  # a view
        first |= inner
        inner |= first
    elif _is_flattening(graph, node):
        first |= own.reshape(-1, first.shape[0]).any(axis=0)
        own |= np.tile(first, own.shape[0] // first.shape[0])
    elif _is_tied(graph, node):
        for channels in inputs:
            own |= channels
        for channels in inputs:
            channels |= own
    else:
        for channels in (own, *inputs):
            channels[:] = True


def _is_tied(graph: Graph, node: Node) -> bool:
    """Returns whether a result has the channels of all that it is made of."""
    if any(array.ndim > 1 for array in node.arrays.values()):
        return False
    if any(graph[source].channels != node.channels for source in node.inputs):
        return False
    if node.kind in ("slice", "concatenate"):
        axes = len(node.shape)
        return node.settings.get("axis") != axes - 1
    return node.kind in (*_TIED, *BINARY, "reshape")


def _is_flattening(graph: Graph, node: Node) -> bool:
    """Returns whether a reshape lines up the channels of all places."""
    if node.kind != "reshape" or len(node.shape) != 1:
        return False
    return node.channels != graph[node.inputs[0]].channels


def _needed(
    node: Node, own: np.ndarray, known: Constants, have: np.ndarray
) -> np.ndarray:
    """Returns the inputs that a layer cannot do without, bool ``[inputs]``.

    Args:
      node: the layer.
      own: its outputs that stay.
      known: the constants among its inputs.
      have: inputs that stay already.
    """
    mask = np.asarray(unit_mask(np.asarray(node.arrays["kernel"]) != 0))
    read = (mask & own[None]).any(axis=1)
    needed = read & np.isnan(known)
    if node.kind == "conv" and is_padded(node):
        sizes = np.nan_to_num(np.abs(known))
        if (sizes * read).max() > (sizes * have).max():
            needed[np.argmax(sizes * read)] = True
    return needed


def _narrowed(graph: Graph, number: int, known: list[Constants], kept: Kept) -> Node:
    """Returns a node with the kept channels alone."""
    node, own = graph[number], kept[number]
    shape = (*node.shape[:-1], int(own.sum()))
    if node.kind in _LAYERS:
        source = node.inputs[0]
        arrays = _layer_arrays(node, known[source], kept[source], own)
        return node._replace(shape=shape, arrays=arrays)
    arrays, settings = dict(node.arrays), dict(node.settings)
    if node.kind == "take":
        before = kept[node.inputs[0]]
        place = np.cumsum(before) - 1
        arrays["indices"] = place[arrays["indices"][own]].astype(np.int32)
    elif node.kind == "pad":
        before, after = settings["widths"][-1]
        end = own.shape[0] - after
        ends = [int(own[:before].sum()), int(own[end:].sum())]
        settings["widths"] = [*settings["widths"][:-1], ends]
    elif node.kind == "slice" and not own.all():
        settings["stop"] = [*settings["stop"][:-1], shape[-1]]
    else:
        arrays = {
            name: array[own] if array.ndim == 1 else array
            for name, array in arrays.items()
        }
    return node._replace(shape=shape, settings=settings, arrays=arrays)


def _layer_arrays(
    node: Node, known: Constants, before: np.ndarray, own: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns kernel and bias of a layer between kept channels, constants folded."""
    kernel = np.asarray(node.arrays["kernel"], np.float64)
    gone = np.where(before | np.isnan(known), 0.0, known)
    bias = np.asarray(node.arrays.get("bias", np.zeros(node.channels)), np.float64)
    if node.kind == "conv" and is_padded(node):
        # The largest constant that stays carries the others, which are smaller.
        sizes = np.nan_to_num(np.abs(known)) * before
        carrier = np.argmax(sizes)
        if gone.any() and sizes[carrier] > 0:
            folded = np.einsum("i,...io->...o", gone / known[carrier], kernel)
            kernel = kernel.copy()
            kernel[..., carrier, :] += folded
    else:
        bias = bias + gone @ taps(node)
    arrays = {"kernel": kernel[..., before, :][..., own].astype(np.float32)}
    if bias[own].any():
        arrays["bias"] = bias[own].astype(np.float32)
    return arrays


def _without_whole_selections(graph: Graph) -> Graph:
    """Leaves out the selections that select everything."""
    instead: list[int] = []
    nodes = list(graph)
    for number, node in enumerate(nodes):
        nodes[number] = node._replace(inputs=tuple(instead[n] for n in node.inputs))
        whole = node.kind == "take" and node.shape == graph[node.inputs[0]].shape
        instead.append(instead[node.inputs[0]] if whole else number)
    return pruned(nodes, instead[-1])

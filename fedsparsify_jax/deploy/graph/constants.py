"""Channels of a network that are the same number for every example and everywhere.

A unit that no surviving weight leads to gives act(bias), whatever the input: what reads
it may add that number to its own bias. At the border of an image this ends: a
convolution that pads with zeros turns a constant channel into one that is not.
"""

from collections.abc import Callable

import numpy as np

from fedsparsify_jax.deploy.graph.nodes import BINARY, UNARY, Graph, Node
from fedsparsify_jax.training.compact.structure import unit_mask

Constants = np.ndarray
"""Float64 ``[channels]`` of a node's result: the number, NaN where it varies."""


def constants(graph: Graph) -> list[Constants]:
    """Returns the constant channels of every node.

    Example:
      >>> kernel, bias = np.array([[1.0, 0.0]]), np.array([0.5, -2.0])
      >>> arrays = {"kernel": kernel, "bias": bias}
      >>> graph = (Node("input", (), (1,), {"dtype": "float32"}),
      ...          Node("dense", (0,), (2,), {}, arrays), Node("relu", (1,), (2,)))
      >>> [values.tolist() for values in constants(graph)]
      [[nan], [nan, -2.0], [nan, 0.0]]
    """
    results: list[Constants] = []
    for node in graph:
        rule = _RULES.get(node.kind)
        if rule is None:
            results.append(_varying(node))
            continue
        with np.errstate(all="ignore"):
            values = rule(node, *(results[source] for source in node.inputs))
        # What is infinite in float32 is no number to fold.
        large = ~(np.abs(values) <= np.finfo(np.float32).max)
        results.append(np.where(large, np.nan, values))
    return results


def _varying(node: Node) -> Constants:
    return np.full(node.channels, np.nan)


def is_padded(node: Node) -> bool:
    """Returns whether a convolution reads zeros around its input."""
    return any(any(pair) for pair in node.settings["padding"])


def taps(node: Node) -> np.ndarray:
    """Returns a kernel as float64 ``[inputs, outputs]``, summed over its window."""
    kernel = np.asarray(node.arrays["kernel"], np.float64)
    return kernel.sum(axis=tuple(range(kernel.ndim - 2)))


def _layer(node: Node, x: Constants) -> Constants:
    kernel = np.asarray(node.arrays["kernel"])
    reads = np.asarray(unit_mask(kernel != 0))  # [inputs, outputs]
    padded = node.kind == "conv" and is_padded(node)
    loose = np.isnan(x) | ((x != 0) if padded else False)
    varies = np.any(reads & loose[:, None], axis=0)
    total = np.nan_to_num(x) @ taps(node)
    total = total + np.asarray(node.arrays.get("bias", 0.0), np.float64)
    return np.where(varies, np.nan, total)


def _affine(node: Node, x: Constants) -> Constants:
    scale = np.asarray(node.arrays.get("scale", 1.0), np.float64)
    shift = np.asarray(node.arrays.get("shift", 0.0), np.float64)
    if scale.ndim > 1 or shift.ndim > 1:
        return _varying(node)
    return np.where(scale == 0, 0.0, x * scale) + shift


def _unary(node: Node, x: Constants) -> Constants:
    if node.kind == "relu":
        return np.maximum(x, 0.0)
    values, known = np.full_like(x, np.nan), ~np.isnan(x)
    values[known] = UNARY[node.kind](x[known].astype(np.float32))
    return values


def _binary(node: Node, x: Constants, y: Constants) -> Constants:
    if node.kind == "mul":
        known = np.where((x == 0) | (y == 0), 0.0, x * y)
        return np.broadcast_to(known, (node.channels,))
    combine = {"add": np.add, "sub": np.subtract, "max": np.maximum}[node.kind]
    return np.broadcast_to(combine(x, y), (node.channels,))


def _same(node: Node, x: Constants) -> Constants:
    return x


def _pad(node: Node, x: Constants) -> Constants:
    *space, channels = node.settings["widths"]
    if any(map(any, space)):
        x = np.where(x == 0, x, np.nan)
    return np.pad(x, channels)


def _reshape(node: Node, x: Constants) -> Constants:
    if node.channels % x.shape[0]:
        return _varying(node)
    return np.tile(x, node.channels // x.shape[0])


def _concatenate(node: Node, *xs: Constants) -> Constants:
    if node.settings["axis"] == len(node.shape) - 1:
        return np.concatenate(xs)
    same = np.all([x == xs[0] for x in xs], axis=0)
    return np.where(same, xs[0], np.nan)


def _slice(node: Node, x: Constants) -> Constants:
    start, stop, step = (node.settings[name][-1] for name in ("start", "stop", "step"))
    return x[start:stop:step]


_RULES: dict[str, Callable[..., Constants]] = {
    "cast": _same,
    "affine": _affine,
    "dense": _layer,
    "conv": _layer,
    "max_pool": _same,
    "mean_pool": _same,
    "mean": _same,
    "instance_norm": lambda node, x: x * 0,
    "pad": _pad,
    "slice": _slice,
    "concatenate": _concatenate,
    "reshape": _reshape,
    "take": lambda node, x: x[np.asarray(node.arrays["indices"])],
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BINARY, _binary),
}

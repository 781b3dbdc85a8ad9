"""A trained network as a list of operations on the examples of a batch.

Every `Node` reads earlier ones; the first is the input and the last the output. Shapes
are those of one example, channels last, as in the networks of this library. A graph is
an array tree and a description in JSON values, so that a file can hold it, and
`forward` computes it without the network that it came from.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fedsparsify_jax.deploy.graph.checks import check_nodes
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.models.ops.convolution import implementation
from fedsparsify_jax.types import Variables

UNARY: dict[str, Callable[[Any], jax.Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "exp": jnp.exp,
    "sqrt": jnp.sqrt,
    "rsqrt": lax.rsqrt,
    "square": jnp.square,
}
"""Functions of single numbers, by the kinds of their nodes."""
BINARY: dict[str, Callable[[Any, Any], jax.Array]] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "max": jnp.maximum,
}
"""Functions of two results with as many axes; axes of length 1 are repeated."""


class Node(NamedTuple):
    """One operation.

    Attributes:
      kind: a key of `UNARY`, of `BINARY`, or of the table at the end of this module.
      inputs: numbers of the nodes it reads.
      shape: of its result for one example.
      settings: JSON values: strides, windows, axes.
      arrays: its weights, by name.
      name: of the layer that it comes from, for people; may be empty.
    """

    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    settings: Mapping[str, Any] = {}
    arrays: Mapping[str, Any] = {}
    name: str = ""

    @property
    def channels(self) -> int:
        """Returns the length of the last axis."""
        return self.shape[-1]


Graph = tuple[Node, ...]


def key(number: int, node: Node) -> str:
    """Returns the name of a node's arrays in the tree of `variables`."""
    return f"{number:03d}_{node.kind}"


def variables(graph: Graph) -> Variables:
    """Returns the arrays of a graph as the variables of a model."""
    return {
        "params": {
            key(number, node): dict(node.arrays)
            for number, node in enumerate(graph)
            if node.arrays
        }
    }


def describe(graph: Graph) -> list[dict[str, Any]]:
    """Returns a graph without its arrays, as JSON values."""
    return [
        {
            "kind": node.kind,
            "inputs": list(node.inputs),
            "shape": list(node.shape),
            "settings": dict(node.settings),
            "name": node.name,
        }
        for node in graph
    ]


def from_description(content: Any, values: Variables) -> Graph:
    """Returns the graph of a description and the arrays that belong to it.

    Args:
      content: what `describe` returned.
      values: what `variables` returned.

    Raises:
      InputError: if they cannot belong together, whatever they are.
    """
    check_nodes(content, _RUN)
    params = values.get("params", {})
    nodes = []
    for number, entry in enumerate(content):
        node = Node(
            kind=entry["kind"],
            inputs=tuple(entry["inputs"]),
            shape=tuple(entry["shape"]),
            settings=entry["settings"],
            name=entry["name"],
        )
        arrays = params.get(key(number, node), {})
        nodes.append(node._replace(arrays=arrays))
    graph = tuple(nodes)
    try:
        example = jax.ShapeDtypeStruct((2, *graph[0].shape), dtype_of(graph))
        jax.eval_shape(lambda x: forward(graph, values, x, conv="xla"), example)
    except Exception as error:  # as many kinds as there are wrong settings
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"the layers do not fit one another ({reason})") from error
    return graph


def dtype_of(graph: Graph) -> Any:
    """Returns the dtype of the input."""
    return np.dtype(graph[0].settings["dtype"])


def forward(graph: Graph, values: Variables, x: Any, *, conv: str = "auto") -> Any:
    """Computes the output of a graph.

    Args:
      graph: only its structure is read.
      values: the arrays, see `variables`.
      x: inputs ``[B, ...]``.
      conv: how convolutions are computed, see `convolution.implementation`.

    Returns:
      The outputs ``[B, ...]``.

    Raises:
      ValueError: if a result has another shape than its node says.

    Example:
      >>> start = Node("input", (), (2,), {"dtype": "float32"})
      >>> graph = (start, Node("relu", (0,), (2,)))
      >>> forward(graph, {"params": {}}, jnp.array([[-1.0, 2.0]]))
      Array([[0., 2.]], dtype=float32)
    """
    results: list[jax.Array] = []
    for number, node in enumerate(graph):
        arrays = values["params"].get(key(number, node), {})
        inputs = [results[source] for source in node.inputs]
        run = functools.partial(_RUN[node.kind], conv=conv)
        result = run(node, arrays, *(inputs or [jnp.asarray(x)]))
        if result.shape[1:] != node.shape:
            raise ValueError(
                f"layer {number} ({node.kind}) gives shape {result.shape[1:]}, not "
                f"{node.shape}"
            )
        results.append(result)
    return results[-1]


def users(graph: Graph) -> list[list[int]]:
    """Returns, for every node, the numbers of those that read it."""
    readers: list[list[int]] = [[] for _ in graph]
    for number, node in enumerate(graph):
        for source in node.inputs:
            readers[source].append(number)
    return readers


def pruned(graph: Sequence[Node], output: int) -> Graph:
    """Returns the graph of what an output needs, renumbered; the input stays."""
    needed = {0, output}
    for number in range(output, -1, -1):
        if number in needed:
            needed.update(graph[number].inputs)
    order = sorted(needed)
    place = {number: new for new, number in enumerate(order)}
    return tuple(
        graph[number]._replace(inputs=tuple(place[s] for s in graph[number].inputs))
        for number in order
    )


# Every function takes (node, arrays, *inputs, conv=...).
def _input(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    return x


def _cast(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    return x.astype(node.settings["dtype"])


def _aligned(array: Any, x: jax.Array) -> jax.Array:
    """Returns numbers for the last axes of an example in the rank of a batch."""
    array = jnp.asarray(array)
    return array.reshape((1,) * (x.ndim - array.ndim) + array.shape)


def _plus(x: jax.Array, arrays: Any, name: str) -> jax.Array:
    return x + _aligned(arrays[name], x) if name in arrays else x


def _affine(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    if "scale" in arrays:
        x = x * _aligned(arrays["scale"], x)
    return _plus(x, arrays, "shift")


def _dense(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    return _plus(x @ jnp.asarray(arrays["kernel"]), arrays, "bias")


def _conv(node: Node, arrays: Any, x: jax.Array, *, conv: str) -> jax.Array:
    space = "DHW"[-(x.ndim - 2) :] if x.ndim <= 5 else ""
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    kernel = jnp.asarray(arrays["kernel"])
    y: jax.Array = implementation(conv)(
        x,
        kernel,
        tuple(node.settings["strides"]),
        [tuple(pair) for pair in node.settings["padding"]],
        rhs_dilation=tuple(node.settings["dilation"]),
        dimension_numbers=lax.conv_dimension_numbers(x.shape, kernel.shape, layout),
    )
    return _plus(y, arrays, "bias")


def _pool(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    window = (1, *node.settings["window"])
    is_max = node.kind == "max_pool"
    start, combine = (-jnp.inf, lax.max) if is_max else (0.0, lax.add)
    y = lax.reduce_window(x, x.dtype.type(start), combine, window, window, "VALID")
    return y if is_max else y / math.prod(window)


def _mean(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    axes = tuple(axis + 1 for axis in node.settings["axes"])
    return jnp.mean(x, axis=axes, keepdims=node.settings["keep"])


def _instance_norm(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    axes = tuple(range(1, x.ndim - 1))
    centred = x - jnp.mean(x, axis=axes, keepdims=True)
    var = jnp.mean(jnp.square(centred), axis=axes, keepdims=True)
    return centred * lax.rsqrt(var + node.settings["epsilon"])


def _pad(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    return jnp.pad(x, [(0, 0), *map(tuple, node.settings["widths"])])


def _slice(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    places = zip(*(node.settings[k] for k in ("start", "stop", "step")), strict=True)
    return x[(slice(None), *(slice(*place) for place in places))]


def _concatenate(node: Node, arrays: Any, *xs: jax.Array, **_: Any) -> jax.Array:
    return jnp.concatenate(xs, axis=node.settings["axis"] + 1)


def _reshape(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    return x.reshape(x.shape[0], *node.shape)


def _take(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    return jnp.take(x, jnp.asarray(arrays["indices"]), axis=-1, mode="clip")


def _unary(node: Node, arrays: Any, x: jax.Array, **_: Any) -> jax.Array:
    return UNARY[node.kind](x)


def _binary(node: Node, arrays: Any, x: jax.Array, y: jax.Array, **_: Any) -> jax.Array:
    return BINARY[node.kind](x, y)


_RUN: dict[str, Callable[..., jax.Array]] = {
    "input": _input,
    "cast": _cast,
    "affine": _affine,
    "dense": _dense,
    "conv": _conv,
    "max_pool": _pool,
    "mean_pool": _pool,
    "mean": _mean,
    "instance_norm": _instance_norm,
    "pad": _pad,
    "slice": _slice,
    "concatenate": _concatenate,
    "reshape": _reshape,
    "take": _take,
    **dict.fromkeys(UNARY, _unary),
    **dict.fromkeys(BINARY, _binary),
}
